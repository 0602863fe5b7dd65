/**
 * Hono, as far as it is called here. What only types need of it is imported where it is needed.
 *
 * @module
 */

/**
 * The package. No literal names it in an `import` of code: what one names Deno downloads before it
 * runs the first line of a program, and reads the list of its releases at each start, so that
 * clients would wait for sockets. `deno cache` and `deno check` find it by the types below; `deno
 * compile` and `deno bundle` need it named: see build/build.ts.
 */
export const HONO = "npm:hono@4.13.19";

const [hono, withCors, route, url, core, regExpRouter, smartRouter, trieRouter] = await Promise.all(
  [
    import(`${HONO}`) as Promise<typeof import("npm:hono@4.13.19")>,
    import(`${HONO}/cors`) as Promise<typeof import("npm:hono@4.13.19/cors")>,
    import(`${HONO}/route`) as Promise<typeof import("npm:hono@4.13.19/route")>,
    import(`${HONO}/utils/url`) as Promise<typeof import("npm:hono@4.13.19/utils/url")>,
    import(`${HONO}/router`) as Promise<typeof import("npm:hono@4.13.19/router")>,
    import(`${HONO}/router/reg-exp-router`) as Promise<
      typeof import("npm:hono@4.13.19/router/reg-exp-router")
    >,
    import(`${HONO}/router/smart-router`) as Promise<
      typeof import("npm:hono@4.13.19/router/smart-router")
    >,
    import(`${HONO}/router/trie-router`) as Promise<
      typeof import("npm:hono@4.13.19/router/trie-router")
    >,
  ],
);

export const { Hono } = hono;
export const { cors } = withCors;
export const { basePath, matchedRoutes } = route;
export const { checkOptionalParameter, getPath, getPattern, mergePath, splitRoutingPath } = url;
export const { UnsupportedPathError } = core;
export const { RegExpRouter } = regExpRouter;
export const { SmartRouter } = smartRouter;
export const { TrieRouter } = trieRouter;

const COMPOSED = "__COMPOSED_HANDLER";

/** A handler, and those in it: Hono wraps the handlers of an app that has an error handler. */
export function* unwrapped(handler: object): Generator<object> {
  type Composed = { [COMPOSED]?: object };
  for (let each: object | undefined = handler; each; each = (each as Composed)[COMPOSED]) {
    yield each;
  }
}
