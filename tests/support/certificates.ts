/**
 * Certificates for tests, made by openssl.
 *
 * @module
 */

import { run, TempFolder } from "./daemon.ts";

async function openssl(...args: string[]): Promise<void> {
  const { code, stderr } = await run("openssl", args);
  if (code !== 0) throw new Error(`openssl ${args.join(" ")}: ${stderr}`);
}

/** The paths of a certificate and its key. */
export interface Pair {
  cert: string;
  key: string;
}

/** An authority and the certificates that it signs, in a temporary folder. */
export class Authority implements AsyncDisposable {
  #folder: TempFolder;
  #made = 0;

  private constructor(folder: TempFolder) {
    this.#folder = folder;
  }
  /** Makes an authority. */
  static async make(): Promise<Authority> {
    const authority = new Authority(await TempFolder.make());
    await authority.selfSigned("ca", "/CN=Test Authority");
    return authority;
  }
  /** The path of a file in its folder. */
  path(name: string): string {
    return `${this.#folder.path}/${name}`;
  }
  /** The path of its own certificate. */
  get ca(): string {
    return this.path("ca.pem");
  }
  /** A self-signed certificate. */
  async selfSigned(name: string, subject: string): Promise<Pair> {
    const pair = { cert: this.path(`${name}.pem`), key: this.path(`${name}.key`) };
    // deno-fmt-ignore
    await openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
      "-subj", subject, "-days", "2", "-keyout", pair.key, "-out", pair.cert);
    return pair;
  }
  /**
   * A certificate signed by the authority, valid for so many days; version 1 without extensions.
   */
  async signed(name: string, subject: string, extensions?: string, days = 2): Promise<Pair> {
    const pair = { cert: this.path(`${name}.pem`), key: this.path(`${name}.key`) };
    const [request, config] = [this.path(`${name}.csr`), this.path(`${name}.ext`)];
    if (extensions) await Deno.writeTextFile(config, extensions);
    // deno-fmt-ignore
    await openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
      "-subj", subject, "-keyout", pair.key, "-out", request);
    // deno-fmt-ignore
    await openssl("x509", "-req", "-in", request, "-CA", this.ca, "-CAkey", this.path("ca.key"),
      "-set_serial", String(++this.#made), "-days", String(days), ...extensions ? ["-extfile", config] : [], "-out", pair.cert);
    return pair;
  }
  /** A daemon's certificate, for this machine. */
  server(name = "server"): Promise<Pair> {
    return this.signed(name, "/CN=localhost", "subjectAltName=DNS:localhost,IP:127.0.0.1");
  }
  /** A client's certificate. */
  client(name = "client", subject = "/O=Ops/CN=alice", days = 2): Promise<Pair> {
    return this.signed(name, subject, "extendedKeyUsage=clientAuth", days);
  }
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#folder[Symbol.asyncDispose]();
  }
}
