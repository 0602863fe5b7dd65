/**
 * Processes by /proc (proc(5)): their state, their container, and their resources.
 *
 * @module
 */

/** The used fields of `/proc/PID/stat`. */
export interface ProcessStat {
  /** The process id. */
  pid: number;
  /** The parent's process id. */
  parent: number;
  /** `R`, `S`, `T` for stopped, `Z` for a zombie, and so on. */
  state: string;
  /** The session's id: the process id of its leader. */
  session: number;
  /** CPU time, in clock ticks. */
  ticks: number;
  /** The start time in clock ticks since the boot, which with the pid identifies a process. */
  startTime: number;
}

/** Clock ticks per second: USER_HZ, which is 100 on all of Deno's Linux targets. */
export const TICKS = 100;

/** A process; undefined if there is none. */
export function statOf(pid: number): ProcessStat | undefined {
  const text = read(`/proc/${pid}/stat`);
  if (text === undefined) return undefined;
  // The second field is the program's name in parentheses, and may contain any character, even ")".
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

/** Whether this very process runs, and not a later one of the same id. */
export function runs(pid: number, startTime: number): boolean {
  const stat = statOf(pid);
  return stat !== undefined && stat.startTime === startTime && stat.state !== "Z";
}

/** The ids of all processes. */
export function pids(): number[] {
  const found: number[] = [];
  for (const { name } of Deno.readDirSync("/proc")) {
    const pid = Number(name);
    if (pid > 0) found.push(pid);
  }
  return found;
}

/** The variable by which the processes of a container are recognized; they inherit it. */
export const MARK = "FLOODGATE_CONTAINER";

/**
 * The container that a process belongs to by its environment; undefined if it has no such variable
 * or its environment is not readable. `""` without an environment, as during execve(2).
 */
export function containerOf(pid: number): string | undefined {
  const text = read(`/proc/${pid}/environ`);
  if (!text) return text;
  return text.split("\0").find((each) => each.startsWith(`${MARK}=`))?.slice(MARK.length + 1);
}

/** The parent of kernel threads, which have no environment. */
const KTHREADD = 2;

/** The processes of containers, see {@linkcode membersOf}. */
export interface Members {
  /** The processes of each container that has any. */
  of: Map<string, ProcessStat[]>;
  /** Whether the container of some process is not known at this moment. */
  doubtful: boolean;
}

/**
 * The processes of containers: those in their sessions, and those with their variable, which a
 * process keeps in a session of its own. For all containers at once, because it reads all of /proc.
 *
 * @param sessions The containers by session id.
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

/** The resources of a process. */
export interface ProcessUsage {
  /** Resident memory, in bytes. */
  memory: number;
  /** The number of its threads. */
  threads: number;
  /** Bytes read from disks. */
  read: number;
  /** Bytes written to disks. */
  written: number;
}

/** The resources of a process; zeros where they are not readable. */
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

/** The time of all CPUs together, idle or not, in clock ticks. */
export function systemTicks(): number {
  const [, ...fields] = (/^cpu .*/m.exec(read("/proc/stat") ?? "")?.[0] ?? "").split(/\s+/);
  return fields.slice(0, 8).reduce((sum, field) => sum + Number(field), 0);
}

const latin1 = new TextDecoder("latin1");

/** A file of /proc; undefined if the process has ended, or belongs to another user. */
function read(path: string): string | undefined {
  try {
    return latin1.decode(Deno.readFileSync(path));
  } catch (error) {
    // If a process ends between open and read, the kernel returns ESRCH.
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
