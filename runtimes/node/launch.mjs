// Makes a node of a file: node launch.mjs FILE [FUNCTION]. The file need not know of Emit.

import { createRequire } from 'node:module';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import { resolveImports, resolveRequires, SDK } from './resolve.mjs';

const [file, name] = process.argv.slice(2);
if (!file) {
  console.error('usage: node launch.mjs FILE [FUNCTION]');
  process.exit(64);
}

/** The SDK that the author has installed, if so: there must be only one. */
function installed() {
  try {
    return createRequire(path.resolve(file)).resolve('emit-graph-sdk');
  } catch {
    return undefined;
  }
}

const own = installed();
if (!own) resolveRequires();
const { boot } = await import(pathToFileURL(own ?? SDK).href);
await boot(file, name, own ? undefined : resolveImports);
