/**
 * The subject of a certificate as text: from its DER (RFC 5280, 4.1) to the notation of RFC 4514.
 * Two different subjects never have the same text.
 *
 * @module
 */

/** The parts of a certificate that are read here. */
export interface CertificateNames {
  /** 1 to 3. */
  readonly version: number;
  /** The subject in the notation of RFC 4514, such as `CN=alice,O=Ops`; may be empty. */
  readonly subject: string;
  /** The object identifiers of its extended key usage; undefined without that extension. */
  readonly usages?: readonly string[] | undefined;
}

/** A value of DER (X.690): its tag, its content, and all of its bytes. */
interface Value {
  readonly tag: number;
  readonly content: Uint8Array;
  readonly whole: Uint8Array;
}

const OBJECT_IDENTIFIER = 0x06;
const SEQUENCE = 0x30;
const SET = 0x31;
const OCTET_STRING = 0x04;
const VERSION = 0xa0;
const EXTENSIONS = 0xa3;
const EXTENDED_KEY_USAGE = "2.5.29.37";

/** Attribute names of RFC 4514, RFC 4519 and RFC 2985. Others are written as object identifiers. */
const TYPES: Readonly<Record<string, string>> = {
  "2.5.4.3": "CN",
  "2.5.4.4": "SN",
  "2.5.4.5": "serialNumber",
  "2.5.4.6": "C",
  "2.5.4.7": "L",
  "2.5.4.8": "ST",
  "2.5.4.9": "STREET",
  "2.5.4.10": "O",
  "2.5.4.11": "OU",
  "2.5.4.12": "title",
  "2.5.4.13": "description",
  "2.5.4.15": "businessCategory",
  "2.5.4.17": "postalCode",
  "2.5.4.41": "name",
  "2.5.4.42": "GN",
  "2.5.4.43": "initials",
  "2.5.4.44": "generationQualifier",
  "2.5.4.46": "dnQualifier",
  "2.5.4.65": "pseudonym",
  "0.9.2342.19200300.100.1.1": "UID",
  "0.9.2342.19200300.100.1.25": "DC",
  "1.2.840.113549.1.9.1": "emailAddress",
};

/**
 * Reads a certificate's names.
 *
 * @param der The certificate.
 * @throws {Error} If it is not DER.
 */
export function readNames(der: Uint8Array): CertificateNames {
  const [certificate] = valuesOf(der);
  const [body] = valuesOf(contentOf(certificate, SEQUENCE));
  const fields = valuesOf(contentOf(body, SEQUENCE));
  const explicit = fields[0]?.tag === VERSION;
  const version = explicit ? valuesOf(fields.shift()!.content)[0]!.content[0]! + 1 : 1;
  // After the serial number, the signature algorithm, the issuer and the validity.
  const names = valuesOf(contentOf(fields[4], SEQUENCE));
  return {
    version,
    // The certificate has the most general name first, the notation has it last.
    subject: names.map(relativeName).reverse().join(","),
    usages: usagesOf(fields.find(({ tag }) => tag === EXTENSIONS)),
  };
}

function usagesOf(extensions: Value | undefined): string[] | undefined {
  if (extensions === undefined) return undefined;
  for (const extension of valuesOf(contentOf(valuesOf(extensions.content)[0], SEQUENCE))) {
    const [type, ...rest] = valuesOf(contentOf(extension, SEQUENCE));
    if (objectIdentifier(contentOf(type, OBJECT_IDENTIFIER)) !== EXTENDED_KEY_USAGE) continue;
    const [usages] = valuesOf(contentOf(rest.at(-1), OCTET_STRING));
    return valuesOf(contentOf(usages, SEQUENCE))
      .map((usage) => objectIdentifier(contentOf(usage, OBJECT_IDENTIFIER)));
  }
}

/** One part of the name. It may have several attributes, whose order DER defines. */
function relativeName(name: Value): string {
  return valuesOf(contentOf(name, SET)).map((attribute) => {
    const [type, value] = valuesOf(contentOf(attribute, SEQUENCE));
    const number = objectIdentifier(contentOf(type, OBJECT_IDENTIFIER));
    const text = number in TYPES ? textOf(value!) : undefined;
    // A value that is not text, or whose type has no name, is written in hexadecimal (RFC 4514,
    // 2.4).
    return `${TYPES[number] ?? number}=${text === undefined ? hex(value!.whole) : escaped(text)}`;
  }).join("+");
}

/** Splits bytes into consecutive values. */
function valuesOf(bytes: Uint8Array): Value[] {
  const values: Value[] = [];
  for (let at = 0; at < bytes.length;) {
    const start = at;
    const tag = bytes[at++]!;
    let length = bytes[at++] ?? NaN;
    if (length >= 0x80) {
      const digits = length & 0x7f;
      // More than four bytes would be a certificate of gigabytes; DER forbids the indefinite
      // length, 0.
      if (digits === 0 || digits > 4) throw malformed();
      length = 0;
      for (let i = 0; i < digits; i++) length = length * 256 + (bytes[at++] ?? NaN);
    }
    const end = at + length;
    // False for NaN too, which a missing byte has made of the length.
    if (!(end <= bytes.length)) throw malformed();
    values.push({ tag, content: bytes.subarray(at, end), whole: bytes.subarray(start, end) });
    at = end;
  }
  return values;
}

function contentOf(value: Value | undefined, tag: number): Uint8Array {
  if (value?.tag !== tag) throw malformed();
  return value.content;
}

function malformed(): Error {
  return new Error("the certificate is not DER");
}

function objectIdentifier(bytes: Uint8Array): string {
  const numbers: bigint[] = [];
  let number = 0n;
  for (const byte of bytes) {
    number = number * 128n + BigInt(byte & 0x7f);
    if (byte >= 0x80) continue;
    numbers.push(number);
    number = 0n;
  }
  // The first two components are encoded in one number.
  const [first = 0n, ...others] = numbers;
  const top = first < 80n ? first / 40n : 2n;
  return [top, first - top * 40n, ...others].join(".");
}

/** The text of a string value; undefined for another type or an ambiguous encoding. */
function textOf({ tag, content }: Value): string | undefined {
  switch (tag) {
    case 0x0c: // UTF8String
      return decoded("utf-8", content);
    case 0x1e: // BMPString
      return decoded("utf-16be", content);
    case 0x1c: // UniversalString
      return universal(content);
    case 0x12: // NumericString
    case 0x13: // PrintableString
    case 0x14: // T61String: programs disagree on its meaning beyond ASCII
    case 0x16: // IA5String
    case 0x1a: // VisibleString
      return content.every((byte) => byte < 0x80) ? decoded("utf-8", content) : undefined;
  }
}

function decoded(encoding: string, bytes: Uint8Array): string | undefined {
  try {
    return new TextDecoder(encoding, { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch (error) {
    if (error instanceof TypeError) return undefined;
    throw error;
  }
}

function universal(bytes: Uint8Array): string | undefined {
  if (bytes.length % 4 !== 0) return undefined;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const points = Array.from({ length: bytes.length / 4 }, (_, i) => view.getUint32(4 * i));
  const valid = points.every((point) => point <= 0x10ffff && (point < 0xd800 || point > 0xdfff));
  return valid ? points.map((point) => String.fromCodePoint(point)).join("") : undefined;
}

const encoder = new TextEncoder();

/** Escapes special characters, and invisible ones as bytes of UTF-8 (RFC 4514, 2.4). */
function escaped(value: string): string {
  return value
    .replace(/[\\,+"<>;=]|^[ #]| $/g, "\\$&")
    .replace(
      /[\p{C}\p{Zl}\p{Zp}]/gu,
      (char) => [...encoder.encode(char)].map((byte) => `\\${byteText(byte)}`).join(""),
    );
}

function hex(bytes: Uint8Array): string {
  return "#" + [...bytes].map(byteText).join("");
}

function byteText(byte: number): string {
  return byte.toString(16).toUpperCase().padStart(2, "0");
}
