// Loads a file that is to be a node, even if it does not know of Emit.

import path from 'node:path';
import { pathToFileURL } from 'node:url';
import { Handler } from './nodes.js';
import { advised, hasTsx, isOfTheLanguage, isUnfit, useTsx } from './typescript.js';

/** Return the handler of *file*, or undefined if it has *registered* nodes itself. */
export async function load(file, name, registered, missing) {
  const shown = path.basename(file);
  const module = /\.[cm]?ts$/.test(file) ? await importTypeScript(file, missing) : await importFile(file, missing);
  if (registered.length) {
    if (name) keepOnly(registered, name, shown);
    return undefined;
  }
  return pick(functionsOf(module), name, file);
}

async function importFile(file, missing, again = '') {
  const url = pathToFileURL(file).href;
  try {
    return await import(url + again);
  } catch (error) {
    if (error instanceof SyntaxError) await locate(error, file);
    if (!missing || !lacksUs(error)) throw error;
  }
  await missing();
  return import(`${url}?again=1`); // Node caches the failure of the first import
}

/**
 * Node from 22.18 on strips types itself. tsx reads the rest: enums, imports without a suffix,
 * `import` and `export` if package.json says "type": "commonjs".
 */
async function importTypeScript(file, missing) {
  const isNative = process.features.typescript && !(isUnfit(file) && hasTsx(file));
  if (isNative) {
    try {
      return await importFile(file, missing);
    } catch (error) {
      if (!isOfTheLanguage(error)) throw error;
      if (!hasTsx(file)) throw advised(error, file);
    }
  }
  await useTsx(file);
  // Node caches the failure of the first import. tsx writes a query as URLSearchParams does, with a
  // value.
  return importFile(file, missing, isNative ? '?by=tsx' : '');
}

function lacksUs(error) {
  const isMissing = ['ERR_MODULE_NOT_FOUND', 'MODULE_NOT_FOUND'].includes(error?.code); // yarn has the second
  return isMissing && /'emit-graph-sdk'|access emit-graph-sdk\b/.test(error.message);
}

/** Find the place of a syntax error. Node shows it only when it prints the error. */
async function locate(error, file) {
  const { spawnSync } = await import('node:child_process'); // takes 3 ms to load
  const { stderr } = spawnSync(process.execPath, ['--check', file], { encoding: 'utf8' });
  const [place] = stderr.split('\n');
  if (/^\/.*:\d+$/.test(place)) error.stack = `${place}\n${error.stack}`;
}

/** Keep only the node that was asked for. */
function keepOnly(registered, name, shown) {
  const at = registered.findIndex((handler) => handler.name === name);
  const found = registered.map((handler) => handler.name).join(', ');
  if (at < 0) throw new ReferenceError(`${shown}: there is no node "${name}" (found: ${found})`);
  registered.splice(0, Infinity, registered[at]);
}

/**
 * Return the functions that a module exports, by name, including those of a CommonJS
 * `module.exports`. If `export default` was compiled to CommonJS, that is its `default`.
 */
function functionsOf(module) {
  const inside = typeof module.default === 'object' ? module.default : {};
  const all = { ...inside, ...module, ...(inside?.default && { default: inside.default }) };
  return Object.fromEntries(Object.entries(all).filter(([, value]) => isFunction(value)));
}

function isFunction(value) {
  return typeof value === 'function' && !/^class\b/.test(Function.prototype.toString.call(value));
}

function pick(functions, name, file) {
  const shown = path.basename(file);
  const stem = shown.replace(/\.\w+$/, '');
  const names = Object.keys(functions).filter((key) => key !== 'module.exports');
  const likely = name ? [name] : ['default', stem, 'handler', ...(names.length === 1 ? names : [])];
  const chosen = likely.find((key) => names.includes(key)) ?? defaultNamed(functions, name);
  if (chosen === undefined) {
    const question = `which function is the node? Name it ${stem}, or say ${shown}:name`;
    const problem = name ? `there is no function "${name}"` : question;
    throw new ReferenceError(`${shown}: ${problem} (found: ${names.join(', ') || 'none'})`);
  }
  // The host calls the node by the name that it has asked for.
  const called = name || (chosen === 'default' ? defaultName(functions.default, stem) : chosen);
  return new Handler(called, functions[chosen], file);
}

/** Find a default export by its function's name: `export default function words` is also words. */
function defaultNamed(functions, name) {
  return name && functions.default?.name === name ? 'default' : undefined;
}

function defaultName(handler, stem) {
  return handler.name === 'default' ? stem : handler.name || stem;
}
