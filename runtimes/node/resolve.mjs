// Lets a file that has installed nothing say `import ... from 'emit-graph-sdk'`, and gives it the
// SDK beside which this lies. One that can be found in the usual way is preferred.
// `node --import .../resolve.mjs` does it for a whole program, such as an author's test.

import Module, { register } from 'node:module';
import { fileURLToPath, pathToFileURL } from 'node:url';

const NAME = 'emit-graph-sdk';
export const SDK = fileURLToPath(new URL('../../sdks/node/index.js', import.meta.url));

export function resolveRequires() {
  const resolve = Module._resolveFilename;
  Module._resolveFilename = function (request, ...rest) {
    try {
      return resolve.call(this, request, ...rest);
    } catch (error) {
      if (request === NAME) return SDK;
      throw error;
    }
  };
}

/** Costs Node 20 a thread, 50 ms and some memory, so the launcher waits until it is needed. */
export function resolveImports() {
  const hook = `export async function resolve(name, context, next) {
    try {
      return await next(name, context);
    } catch (error) {
      if (name !== '${NAME}') throw error;
      return { url: ${JSON.stringify(pathToFileURL(SDK).href)}, shortCircuit: true };
    }
  }`;
  register(`data:text/javascript,${encodeURIComponent(hook)}`);
}

if (process.execArgv.some((argument) => argument.includes(fileURLToPath(import.meta.url)))) {
  resolveRequires();
  resolveImports();
  const typed = process.argv.find((argument) => /\.[cm]?ts$/.test(argument));
  if (typed && !process.features.typescript) {
    const { useTsx } = await import('../../sdks/node/lib/typescript.js');
    await useTsx(typed);
  }
}
