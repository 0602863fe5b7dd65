import { assert, assertEquals, assertNotEquals, assertThrows } from "@std/assert";
import { X509Certificate } from "node:crypto";
import { readNames } from "../../serve/distinguished_name.ts";
import { Authority } from "../support/certificates.ts";
import { run, TempFolder } from "../support/daemon.ts";

/** A certificate by openssl for a subject such as `/O=Ops/CN=alice+UID=1`. */
async function certificate(subject: string): Promise<Uint8Array> {
  await using folder = await TempFolder.make();
  const path = (name: string) => `${folder.path}/${name}`;
  // openssl needs a name for types that have none.
  const oids = ["first=1.3.6.1.4.1.99999.1", "second=1.3.6.1.4.1.99999.2", "short=1.2.3.4"];
  await Deno.writeTextFile(
    path("config"),
    `oid_section=oids\n[req]\ndistinguished_name=dn\n[oids]\n${oids.join("\n")}\n[dn]\n`,
  );
  const { code, stderr } = await run("openssl", [
    ...["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"],
    ...["-keyout", path("key"), "-out", path("cert"), "-days", "1", "-utf8", "-subj", subject],
    ...["-config", path("config"), "-addext", "basicConstraints=CA:FALSE"],
  ]);
  assertEquals(code, 0, stderr);
  return new X509Certificate(Deno.readTextFileSync(path("cert"))).raw;
}

async function subjectOf(subject: string): Promise<string> {
  return readNames(await certificate(subject)).subject;
}

/** A DER value: its tag, its length, and its content. */
function der(tag: number, ...content: (number | Uint8Array)[]): Uint8Array {
  const bytes = content.flatMap((part) => typeof part === "number" ? [part] : [...part]);
  const length = bytes.length < 128
    ? [bytes.length]
    : [0x82, bytes.length >> 8, bytes.length & 0xff];
  return Uint8Array.of(tag, ...length, ...bytes);
}

/**
 * A certificate with nothing in it but a subject of these attributes, each in a part of its own.
 */
function bare(...attributes: [oid: number[], value: Uint8Array][]): Uint8Array {
  const parts = attributes.map(([oid, value]) => der(0x31, der(0x30, der(0x06, ...oid), value)));
  const empty = der(0x30);
  return der(0x30, der(0x30, der(0x02, 1), empty, empty, empty, der(0x30, ...parts)));
}

const CN = [0x55, 4, 3];
const text = (value: string) => new TextEncoder().encode(value);
const named = (value: Uint8Array) => readNames(bare([CN, value])).subject;

Deno.test("readNames reads every attribute of the subject, the last first", async () => {
  const subject =
    "/DC=example/DC=com/C=DE/ST=Berlin/L=Mitte/street=Allee 1/O=Ops/OU=a/OU=b/title=Dr" +
    "/serialNumber=42/GN=Alice/SN=Liddell/UID=alice/emailAddress=alice@example.com/CN=Alice L";
  assertEquals(
    await subjectOf(subject),
    "CN=Alice L,emailAddress=alice@example.com,UID=alice,SN=Liddell,GN=Alice,serialNumber=42," +
      "title=Dr,OU=b,OU=a,O=Ops,STREET=Allee 1,L=Mitte,ST=Berlin,C=DE,DC=com,DC=example",
  );
});

Deno.test("readNames tells different subjects apart", async () => {
  const subjects = await Promise.all([
    "/O=Ops/UID=alice",
    "/O=Ops/UID=bob",
    "/UID=alice/O=Ops",
    "/O=Ops+UID=alice", // Two attributes of one part.
    "/O=Ops,UID=alice",
    "/O=Ops\\+UID=alice",
    "/O=Ops/O=UID",
    "/O=UID/O=Ops",
    "/O=Ops/title=alice",
    "/O=Ops/serialNumber=alice",
    "/O=Ops/first=alice",
    "/O=Ops/second=alice",
    "/O=Ops/first=bob",
  ].map((subject) => subjectOf(subject)));
  assertEquals(new Set(subjects).size, subjects.length, subjects.join("\n"));
});

Deno.test("readNames writes several attributes of one part with a plus, in the order they have", async () => {
  assertEquals(await subjectOf("/O=Ops/CN=alice+UID=1+OU=a"), "OU=a+CN=alice+UID=1,O=Ops");
});

Deno.test("readNames says the same as openssl", async () => {
  await using folder = await TempFolder.make();
  const subjects = [
    "/O=Ops/CN=alice",
    '/O=Ops, Inc/CN= a #1\\+2;<x>\\\\"y" ',
    "/CN=#begins",
    "/O=Ops/short=abc/CN=x",
    "/CN=\u00e9\u20ac\u{1f600}",
    "/DC=example/DC=com/UID=x/serialNumber=7/title=t",
  ];
  for (const subject of subjects) {
    const bytes = await certificate(subject);
    await Deno.writeFile(`${folder.path}/der`, bytes);
    const { stdout } = await run("openssl", [
      ...["x509", "-inform", "DER", "-in", `${folder.path}/der`, "-noout", "-subject"],
      // Text past ASCII as it is.
      ...["-nameopt", "RFC2253,-esc_msb,utf8"],
    ]);
    assertEquals(readNames(bytes).subject, stdout.trim().replace(/^subject=/, ""));
  }
});

Deno.test("readNames gives no name for an empty subject", async () => {
  assertEquals(readNames(bare()).subject, "");
  assertEquals(readNames(bare([CN, der(0x0c)])).subject, "CN=");
  assertEquals(readNames(await certificate("/O=x")).version, 3);
  assertEquals(readNames(bare()).version, 1);
});

Deno.test("readNames reads the purposes of a certificate", async () => {
  await using authority = await Authority.make();
  const usages = async (extensions: string) => {
    const { cert } = await authority.signed("one", "/CN=x", extensions);
    return readNames(new X509Certificate(Deno.readTextFileSync(cert)).raw).usages;
  };
  assertEquals(await usages("basicConstraints=CA:FALSE"), undefined);
  assertEquals(await usages("extendedKeyUsage=critical,clientAuth,1.2.3.4"), [
    "1.3.6.1.5.5.7.3.2",
    "1.2.3.4",
  ]);
  assertEquals(await usages("extendedKeyUsage=serverAuth"), ["1.3.6.1.5.5.7.3.1"]);
});

Deno.test("readNames reads each kind of text, and writes other values as bytes", () => {
  const cases: [value: Uint8Array, text: string][] = [
    [der(0x0c, text("\u00e9\u20ac")), "\u00e9\u20ac"],
    [der(0x13, text("alice")), "alice"],
    [der(0x16, text("a@b")), "a@b"],
    [der(0x14, text("alice")), "alice"],
    [der(0x12, text("42")), "42"],
    [der(0x1e, 0, 0x61, 0x20, 0xac), "a\u20ac"],
    [der(0x1e, 0xd8, 0x3d, 0xde, 0), "\u{1f600}"],
    [der(0x1c, 0, 1, 0xf6, 0), "\u{1f600}"],
    // T61String beyond ASCII, malformed text, and values other than text.
    [der(0x14, 0xe9), "#1401E9"],
    [der(0x13, 0xe9), "#1301E9"],
    [der(0x0c, 0xff), "#0C01FF"],
    [der(0x0c, 0xed, 0xa0, 0x80), "#0C03EDA080"],
    [der(0x1e, 0x61), "#1E0161"],
    [der(0x1e, 0xd8, 0), "#1E02D800"],
    [der(0x1c, 0, 0, 0xd8, 0), "#1C040000D800"],
    [der(0x1c, 0, 0x11, 0, 0), "#1C0400110000"],
    [der(0x02, 7), "#020107"],
    [der(0x03, 0, 1), "#03020001"],
    [der(0x30, der(0x0c, text("x"))), "#30030C0178"],
  ];
  for (const [value, expected] of cases) assertEquals(named(value), `CN=${expected}`);
});

Deno.test("readNames escapes special and unprintable characters", () => {
  const cases: [text: string, escaped: string][] = [
    ["a,b", "a\\,b"],
    ['+"<>;=\\', '\\+\\"\\<\\>\\;\\=\\\\'],
    [" a ", "\\ a\\ "],
    ["  ", "\\ \\ "],
    ["#a#", "\\#a#"],
    ["a\0b", "a\\00b"],
    ["a\r\n\x1b[31m\x7f", "a\\0D\\0A\\1B[31m\\7F"],
    ["\u0085\u009b", "\\C2\\85\\C2\\9B"],
    ["\u2028\u202e\ufeff", "\\E2\\80\\A8\\E2\\80\\AE\\EF\\BB\\BF"],
  ];
  for (const [given, expected] of cases) {
    assertEquals(named(der(0x0c, text(given))), `CN=${expected}`);
  }
  // A text that looks like hexadecimal, or like more of the name, is escaped.
  assertNotEquals(named(der(0x0c, text("#0C0161"))), named(der(0x02, 7)));
  assertNotEquals(
    named(der(0x0c, text("a,O=b"))),
    readNames(bare([[0x55, 4, 10], der(0x0c, text("b"))], [CN, der(0x0c, text("a"))])).subject,
  );
});

Deno.test("readNames writes the numbers of types without a name", () => {
  const subject = (...oid: number[]) => readNames(bare([oid, der(0x0c, text("x"))])).subject;
  assertEquals(subject(0x2a, 3, 4), "1.2.3.4=#0C0178");
  assertEquals(subject(0x88, 0x37, 1), "2.999.1=#0C0178");
  assertEquals(subject(0x55, 4, 0xff, 0x7f), "2.5.4.16383=#0C0178");
  assertEquals(subject(0x27, 1), "0.39.1=#0C0178");
});

Deno.test("readNames refuses what is no certificate", async () => {
  const whole = await certificate("/O=Ops/CN=alice");
  const broken: Uint8Array[] = [
    new Uint8Array(0),
    Uint8Array.of(0x30),
    Uint8Array.of(0x30, 0x80, 0, 0),
    Uint8Array.of(0x30, 0x85, 0, 0, 0, 0, 1),
    Uint8Array.of(0x30, 0x7f, 1),
    Uint8Array.of(0x31, 0),
    whole.subarray(0, 40),
    whole.subarray(1),
  ];
  for (const bytes of broken) {
    assertThrows(() => readNames(bytes), Error, "the certificate is not DER");
  }
  // A truncated certificate is refused, wherever it is cut.
  for (let i = 0; i < whole.length; i++) {
    assertThrows(() => readNames(whole.subarray(0, i)), Error, "not DER");
  }
  assert(readNames(whole).subject !== "");
});
