/**
 * What serves connections, loaded as one once the addresses are bound: the kernel holds clients
 * meanwhile. All that comes with it stands here by name, for the reason that mod.ts gives.
 *
 * @module
 */

export { nativeServe } from "../platform/http.ts";
export { Peers } from "../platform/peers.ts";
export { deepenQueue, keepAlive } from "../platform/sockets.ts";
export { STDERR, writability } from "../platform/writability.ts";
export { judgePages } from "./browsers.ts";
export { Connections } from "./connections.ts";
export { observed, tellRefused } from "./observe.ts";
export { admit, checkAnswers } from "./requests.ts";
export { Workload } from "./workload.ts";

import "../platform/libc.ts";
import "../platform/peek.ts";
import "../platform/websockets.ts";
import "./connection.ts";
import "./delivery.ts";
import "./sweep.ts";
