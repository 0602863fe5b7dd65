/**
 * What /proc tells of processes: their state, their container, and what they use (proc(5)).
 *
 * @module
 */

/** What is needed of `/proc/PID/stat`. */
export interface ProcessStat {
  /** The process id. */
  pid: number;
  /** The parent's. */
  parent: number;
  /** `R`, `S`, `T` for stopped, `Z` for one that has ended and was not waited for, and so on. */
  state: string;
  /** The session's id, which is the process id of its leader. */
  session: number;
  /** Time on a processor, in clock ticks. */
  ticks: number;
  /** When it started, in clock ticks since the machine did. With the pid it names a process for ever. */
  startTime: number;
}

/** Clock ticks a second: USER_HZ, which Linux has kept at 100 on all that Deno runs on. */
export const TICKS = 100;

/** A process, or undefined where there is none. */
export function statOf(pid: number): ProcessStat | undefined {
  const text = read(`/proc/${pid}/stat`);
  if (text === undefined) return undefined;
  // The second field is the program's name in parentheses, and may hold anything, ")" included.
  const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
  return {
    pid,
    state: fields[0] ?? "",
    parent: Number(fields[1]),
    session: Number(fields[3]),
    ticks: Number(fields[11]) + Number(fields[12]),
    startTime: Number(fields[19]),
  };
}

/** Whether this very process runs: a later one with the same number started at another time. */
export function runs(pid: number, startTime: number): boolean {
  const stat = statOf(pid);
  return stat !== undefined && stat.startTime === startTime && stat.state !== "Z";
}

/** All process ids of now. */
export function pids(): number[] {
  const found: number[] = [];
  for (const { name } of Deno.readDirSync("/proc")) {
    const pid = Number(name);
    if (pid > 0) found.push(pid);
  }
  return found;
}

/** The variable that every process of a container inherits, and by which it is known. */
export const MARK = "FLOODGATE_CONTAINER";

/**
 * The container that a process says it belongs to; undefined where it says nothing, or where we may
 * not look, as at another user's. `""` where it has no environment, as in the middle of an execve(2).
 */
export function containerOf(pid: number): string | undefined {
  const text = read(`/proc/${pid}/environ`);
  if (!text) return text;
  return text.split("\0").find((each) => each.startsWith(`${MARK}=`))?.slice(MARK.length + 1);
}

/** The kernel's own threads have this parent, and no environment. */
const KTHREADD = 2;

/** The processes of containers, see {@linkcode membersOf}. */
export interface Members {
  /** Those of each container that has any. */
  of: Map<string, ProcessStat[]>;
  /** Whether there are some of which it cannot be told now whose they are. */
  doubtful: boolean;
}

/**
 * The processes of containers: those of their sessions, and those that carry their mark, which a
 * process keeps when it starts a session of its own. All of them in one go, since each look goes
 * through all of /proc.
 *
 * @param sessions By session id, whose it is.
 */
export function membersOf(
  containers: ReadonlySet<string>,
  sessions: ReadonlyMap<number, string>,
): Members {
  const found: Members = { of: new Map(), doubtful: false };
  for (const pid of pids()) {
    const stat = statOf(pid);
    if (stat === undefined || stat.state === "Z") continue;
    const id = sessions.get(stat.session) ?? containerOf(pid);
    if (id === "" && pid !== KTHREADD && stat.parent !== KTHREADD) found.doubtful = true;
    if (id === undefined || !containers.has(id)) continue;
    const members = found.of.get(id);
    if (members) members.push(stat);
    else found.of.set(id, [stat]);
  }
  return found;
}

/** What a process uses. */
export interface ProcessUsage {
  /** Memory that is its own or shared, in bytes. */
  memory: number;
  /** Its threads. */
  threads: number;
  /** Bytes read from disks. */
  read: number;
  /** Bytes written to disks. */
  written: number;
}

/** What a process uses; zeros of what we may not see. */
export function usageOf(pid: number): ProcessUsage {
  const status = read(`/proc/${pid}/status`) ?? "";
  const io = read(`/proc/${pid}/io`) ?? "";
  const number = (text: string, pattern: RegExp) => Number(pattern.exec(text)?.[1] ?? 0);
  return {
    memory: number(status, /^VmRSS:\s*(\d+)/m) * 1_024,
    threads: number(status, /^Threads:\s*(\d+)/m),
    read: number(io, /^read_bytes: (\d+)/m),
    written: number(io, /^write_bytes: (\d+)/m),
  };
}

/** Time that all processors together have spent, in clock ticks, idle or not. */
export function systemTicks(): number {
  const [, ...fields] = (/^cpu .*/m.exec(read("/proc/stat") ?? "")?.[0] ?? "").split(/\s+/);
  return fields.slice(0, 8).reduce((sum, field) => sum + Number(field), 0);
}

/** Names the time since the machine started: process ids and start times mean nothing in another. */
export function bootId(): string {
  return Deno.readTextFileSync("/proc/sys/kernel/random/boot_id").trim();
}

const latin1 = new TextDecoder("latin1");

/** A file of /proc; undefined where the process has ended, or is another user's. */
function read(path: string): string | undefined {
  try {
    return latin1.decode(Deno.readFileSync(path));
  } catch (error) {
    // Of a process that ends between open and read the kernel says ESRCH.
    if (error instanceof Deno.errors.NotFound) return undefined;
    if (error instanceof Deno.errors.PermissionDenied) return undefined;
    if (isNoSuchProcess(error)) return undefined;
    throw error;
  }
}

/** Whether an error is ESRCH, for which Deno has no class. */
export function isNoSuchProcess(error: unknown): boolean {
  return error instanceof Error && error.message.includes("(os error 3)");
}
