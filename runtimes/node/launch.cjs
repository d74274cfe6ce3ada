// Makes a node of a file: node launch.cjs FILE [FUNCTION]. The file need not know of Emit.
//
// It is CommonJS as what yarn's Plug'n'Play changes of Node has to be changed before the first import.

'use strict';

const fs = require('node:fs');
const { createRequire, register } = require('node:module');
const path = require('node:path');
const { pathToFileURL } = require('node:url');

const [file, name] = process.argv.splice(2); // they are not the file's
if (!file) {
  console.error('usage: node launch.cjs FILE [FUNCTION]');
  process.exit(64);
}

/**
 * Find packages as `yarn node FILE` does, where yarn keeps them in no node_modules. What lies in a
 * folder of everybody's, as /tmp is, is nobody's project.
 */
function plugAndPlay(folder) {
  if ((fs.statSync(folder).mode & 0o1002) === 0o1002) return;
  const [hook, loader] = ['.pnp.cjs', '.pnp.loader.mjs'].map((one) => path.join(folder, one));
  if (fs.existsSync(hook)) {
    require(hook).setup?.();
    if (fs.existsSync(loader)) register(pathToFileURL(loader));
  } else if (path.dirname(folder) !== folder) {
    plugAndPlay(path.dirname(folder));
  }
}

/** The SDK that the author has installed, if so: there must be only one. */
function installed() {
  try {
    return createRequire(path.resolve(file)).resolve('emit-graph-sdk');
  } catch {
    return undefined;
  }
}

async function launch() {
  const { resolveImports, resolveRequires, SDK } = await import('./resolve.mjs');
  const own = installed();
  if (!own) resolveRequires();
  const { boot } = await import(pathToFileURL(own ?? SDK).href);
  await boot(file, name, own ? undefined : resolveImports);
}

if (!process.versions.pnp) plugAndPlay(path.dirname(path.resolve(file)));
launch();
