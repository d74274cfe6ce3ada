// Loading a file that is to be a node, whether it knows of Emit or not.

import path from 'node:path';
import { pathToFileURL } from 'node:url';
import { Handler } from './nodes.js';
import { advised, hasTsx, isOfTheLanguage, isUnfit, useTsx } from './typescript.js';

/** The handler of *file*, or undefined when it has *registered* nodes by itself. */
export async function load(file, name, registered, missing) {
  const shown = path.basename(file);
  const module = /\.[cm]?ts$/.test(file) ? await importTypeScript(file, missing) : await importFile(file, missing);
  if (registered.length) {
    if (name) keepOnly(registered, name, shown);
    return undefined;
  }
  return pick(functionsOf(module), name, shown);
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
  return import(`${url}?again=1`); // Node keeps the failure of the first
}

/**
 * A Node from 22.18 up takes types out by itself. It leaves to tsx what it can't: enums, imports
 * without a suffix, `import` and `export` where package.json says "type": "commonjs".
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
  // Node keeps the failure of the first. tsx writes a query as URLSearchParams does, with a value.
  return importFile(file, missing, isNative ? '?by=tsx' : '');
}

function lacksUs(error) {
  const isMissing = ['ERR_MODULE_NOT_FOUND', 'MODULE_NOT_FOUND'].includes(error?.code); // yarn's has the second
  return isMissing && /'emit-graph-sdk'|access emit-graph-sdk\b/.test(error.message);
}

/** Node keeps to itself where in the file a syntax error is, until it prints it. */
async function locate(error, file) {
  const { spawnSync } = await import('node:child_process'); // it takes 3 ms to load
  const { stderr } = spawnSync(process.execPath, ['--check', file], { encoding: 'utf8' });
  const [place] = stderr.split('\n');
  if (/^\/.*:\d+$/.test(place)) error.stack = `${place}\n${error.stack}`;
}

/** The node that was asked for is all that is served. */
function keepOnly(registered, name, shown) {
  const at = registered.findIndex((handler) => handler.name === name);
  const found = registered.map((handler) => handler.name).join(', ');
  if (at < 0) throw new ReferenceError(`${shown}: there is no node "${name}" (found: ${found})`);
  registered.splice(0, Infinity, registered[at]);
}

/**
 * The functions that a module exports, by name, those of a CommonJS `module.exports` too. Where
 * `export default` was made into CommonJS, that is its `default`.
 */
function functionsOf(module) {
  const inside = typeof module.default === 'object' ? module.default : {};
  const all = { ...inside, ...module, ...(inside?.default && { default: inside.default }) };
  return Object.fromEntries(Object.entries(all).filter(([, value]) => isFunction(value)));
}

function isFunction(value) {
  return typeof value === 'function' && !/^class\b/.test(Function.prototype.toString.call(value));
}

function pick(functions, name, shown) {
  const stem = shown.replace(/\.\w+$/, '');
  const names = Object.keys(functions).filter((key) => key !== 'module.exports');
  const likely = name ? [name] : ['default', stem, 'handler', ...(names.length === 1 ? names : [])];
  const chosen = likely.find((key) => names.includes(key)) ?? defaultNamed(functions, name);
  if (chosen === undefined) {
    const question = `which function is the node? Name it ${stem}, or say ${shown}:name`;
    const problem = name ? `there is no function "${name}"` : question;
    throw new ReferenceError(`${shown}: ${problem} (found: ${names.join(', ') || 'none'})`);
  }
  // A host calls it by the name that it has asked for.
  const called = name || (chosen === 'default' ? defaultName(functions.default, stem) : chosen);
  return new Handler(called, functions[chosen]);
}

/** `export default function words` answers to the name words. */
function defaultNamed(functions, name) {
  return name && functions.default?.name === name ? 'default' : undefined;
}

function defaultName(handler, stem) {
  return handler.name === 'default' ? stem : handler.name || stem;
}
