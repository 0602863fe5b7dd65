/**
 * SIGUSR1 without the debugger that Deno opens at it.
 *
 * @module
 */

import { foreignFunctionsProblem } from "./descriptors.ts";
import { Libc } from "./libc.ts";

/** Of Linux on x86-64 and AArch64 (signal(7)). */
const SIGUSR1 = 10;
/** A signal that nothing sends, under whose number Deno is told of SIGUSR1. */
const DETOUR = { name: "SIGSTKFLT", number: 16 } as const;

/**
 * Calls back at SIGUSR1, and keeps Deno from doing more.
 *
 * `deno run` from 2.9.2 on listens for this signal, 500 ms after its start, as Node does: it opens
 * a debugger on 127.0.0.1:9229, where every user of the machine may run code as this one. A
 * listener of JavaScript is called besides, and not instead. So the signal takes a detour. Deno's
 * handler is told by its argument which signal has come; where foreign functions may be called, it
 * is told that it was another, which Deno has no debugger for. That holds from the return of this
 * function on, and Deno installs a handler once only. A compiled program has no such debugger.
 *
 * Without foreign functions the debugger is closed as soon as it is open, some 20 ms later.
 *
 * @returns Whether the debugger stays shut.
 */
export function onUserSignal(listener: () => void): boolean {
  if (Deno.build.os === "windows") return true; // Which has neither.
  // It has Deno install its handler, and is called where the detour is not in place.
  Deno.addSignalListener("SIGUSR1", () => {
    listener();
    closeDebugger();
  });
  if (foreignFunctionsProblem()) return false;
  Deno.addSignalListener(DETOUR.name, listener);
  detour();
  return true;
}

/** Where the detour begins: it is the process's, and is made once. */
let made = false;

/**
 * Lets the kernel call, at SIGUSR1, a function that calls what it called before with another
 * number.
 */
function detour(): void {
  if (made) return;
  made = true;
  using libc = new Libc();
  const action = libc.signalAction(SIGUSR1);
  const program = passOn(DETOUR.number, action.handler);
  libc.setSignalAction(SIGUSR1, { ...action, handler: libc.machineCode(program) });
}

/**
 * Machine code of a function that calls another with all its arguments, and a number in place of
 * the first. Deno for Linux is made for these two architectures.
 */
function passOn(number: number, target: bigint): Uint8Array<ArrayBuffer> {
  const code = new DataView(new ArrayBuffer(24));
  if (Deno.build.arch === "x86_64") {
    code.setUint8(0, 0xbf); // mov edi, number
    code.setUint32(1, number, true);
    code.setUint16(5, 0xb8_48, true); // mov rax, target
    code.setBigUint64(7, target, true);
    code.setUint16(15, 0xe0_ff, true); // jmp rax
  } else {
    code.setUint32(0, 0x52_80_00_00 | number << 5, true); // mov w0, number
    code.setUint32(4, 0x58_00_00_70, true); // ldr x16, target
    code.setUint32(8, 0xd6_1f_02_00, true); // br x16
    code.setBigUint64(16, target, true);
  }
  return new Uint8Array(code.buffer);
}

/**
 * How long after the signal Deno's debugger is closed, in milliseconds: it may be opened before or
 * after.
 */
const CLOSE_AFTER = [0, 10, 100, 1_000];

async function closeDebugger(): Promise<void> {
  const { close } = await import("node:inspector");
  for (const delay of CLOSE_AFTER) setTimeout(close, delay);
}
