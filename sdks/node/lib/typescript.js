// TypeScript by tsx, for files that Node does not read by itself.

import { existsSync, readFileSync, realpathSync } from 'node:fs';
import Module, { createRequire } from 'node:module';
import path from 'node:path';
import { pathToFileURL } from 'node:url';

/** Codes of Node's errors for a file that it can't read, raised before any of the file has run. */
const UNREAD = ['ERR_UNSUPPORTED_TYPESCRIPT_SYNTAX', 'ERR_INVALID_TYPESCRIPT_SYNTAX'];
UNREAD.push('ERR_MODULE_NOT_FOUND', 'ERR_UNSUPPORTED_DIR_IMPORT', 'ERR_AMBIGUOUS_MODULE_SYNTAX');

export function isOfTheLanguage(error) {
  return error instanceof SyntaxError || UNREAD.includes(error?.code);
}

/**
 * True if Node would try *file* in vain, with a warning: `import` and `export` in a project of
 * "type": "commonjs", the default of `npm init`.
 */
export function isUnfit(file) {
  if (!file.endsWith('.ts') || !/^(import|export)\b/m.test(readFileSync(file, 'utf8'))) return false;
  const manifest = Module.findPackageJSON(pathToFileURL(file));
  return manifest !== undefined && JSON.parse(readFileSync(manifest, 'utf8')).type === 'commonjs';
}

export function hasTsx(file) {
  return findTsx(file) !== undefined;
}

/**
 * Return the file that `node --import tsx` loads for *file*; undefined if its project lacks tsx.
 */
function findTsx(file) {
  try {
    // The link's target, as with pnpm: its dependencies are beside it there.
    const found = realpathSync(createRequire(path.resolve(file)).resolve('tsx/package.json'));
    return path.resolve(path.dirname(found), createRequire(found)(found).exports['.']);
  } catch {
    return undefined;
  }
}

/** Make tsx read the TypeScript that is loaded from now on, as `node --import tsx` does. */
export async function useTsx(file) {
  const tsx = findTsx(file);
  if (!tsx) {
    throw new Error(
      `${path.basename(file)}: Node ${process.versions.node} cannot run TypeScript: use Node 22.18 or newer, ` +
        `or ${install(file)} tsx`,
    );
  }
  await import(pathToFileURL(tsx).href);
  shareThisPackage(await import('../index.js'));
}

/**
 * Make `require` return this copy of the package. tsx turns every required file into CommonJS, and
 * a second copy would keep the nodes that the file registers to itself.
 */
function shareThisPackage(exported) {
  const { _load } = Module;
  Module._load = function (request, ...rest) {
    return request === 'emit-graph-sdk' ? exported : _load.call(this, request, ...rest);
  };
}

const INSTALLERS = {
  'pnpm-lock.yaml': 'pnpm add -D',
  'pnpm-workspace.yaml': 'pnpm add -D',
  'yarn.lock': 'yarn add -D',
  'bun.lock': 'bun add -d',
};

/** Return the project's command to install a package, chosen by its lock file. */
function install(file) {
  const folder = path.dirname(path.resolve(file));
  const lock = Object.keys(INSTALLERS).find((name) => existsSync(path.join(folder, name)));
  if (lock) return INSTALLERS[lock];
  return path.dirname(folder) === folder ? 'npm install --save-dev' : install(folder);
}

/** Return an error of a file that needs tsx, with the remedy. */
export function advised(error, file) {
  if (/\b(import|export|enum|TypeScript)\b/.test(error.message)) {
    error.message +=
      ' (Node reads no enums, and no import and export in a project of "type": "commonjs"; ' +
      `say "type": "module", or ${install(file)} tsx)`;
  }
  return error;
}
