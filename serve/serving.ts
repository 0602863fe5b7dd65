/**
 * What serves connections, loaded as one once the addresses are bound: the kernel holds clients
 * meanwhile. All that comes with it stands here by name, for the reason that mod.ts gives.
 *
 * @module
 */

export { setTcpOptions } from "../platform/sockets.ts";
export { STDERR, writability } from "../platform/writability.ts";
export { Listeners } from "./listeners.ts";

import "../platform/http.ts";
import "../platform/libc.ts";
import "../platform/peek.ts";
import "../platform/peers.ts";
import "../platform/websockets.ts";
import "./browsers.ts";
import "./connection.ts";
import "./connections.ts";
import "./delivery.ts";
import "./observe.ts";
import "./raw_upgrades.ts";
import "./requests.ts";
import "./sweep.ts";
import "./workload.ts";
