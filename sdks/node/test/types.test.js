// The types that a source states, read from its text.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { typesIn } from '../lib/types.js';

const text = { type: 'string' };
const number = { type: 'number' };
const double = { type: 'number', format: 'double' };

const SOURCES = [
  [
    "export function words({ text, limit = 5 }: { text: string; limit?: number }): string[] { return []; }",
    { type: 'object', properties: { text, limit: double }, required: ['text'] },
    { type: 'array', items: text },
  ],
  [
    `interface Line { readonly sku: string, count: number | undefined; tags?: Record<string, boolean> }
     type Price = { sku: string; cents: bigint } | null;
     export const words = async (msg: Line): Promise<Price> => null;`,
    {
      type: 'object',
      properties: { sku: text, count: double, tags: { type: 'object', additionalProperties: { type: 'boolean' } } },
      required: ['sku'],
    },
    {
      anyOf: [
        { type: 'object', properties: { sku: text, cents: { type: 'integer' } }, required: ['sku', 'cents'] },
        { type: 'null' },
      ],
    },
  ],
  [
    "export default node(function* words({ at }: { at: Date }, { log }): Generator<[string, number], void, void> {});",
    { type: 'object', properties: { at: { type: 'string', format: 'date-time' } }, required: ['at'] },
    { type: 'array', prefixItems: [text, number] },
  ],
  [
    "export const made = node('n', async function words(msg: { kind: 'a' | 'b', raw: Uint8Array }) {});",
    {
      type: 'object',
      properties: { kind: { enum: ['a', 'b'] }, raw: { type: 'string', format: 'binary' } },
      required: ['kind', 'raw'],
    },
    undefined,
  ],
  [
    `/**
      * @typedef {{sku: string, more?: Array<number>}} Line
      */
     /**
      * Price it.
      * @param {Line} msg the line
      * @returns {Promise<number>} cents
      */
     export async function words(msg) { return 1; }`,
    {
      type: 'object',
      properties: { sku: text, more: { type: 'array', items: double } },
      required: ['sku'],
    },
    number,
  ],
  [
    `/**
      * @param {Object} msg
      * @param {string} msg.text
      * @param {number} [msg.limit=5]
      * @yields {string}
      */
     export function* words({ text, limit = 5 }) {}`,
    { type: 'object', properties: { text, limit: double }, required: ['text'] },
    text,
  ],
  ["import type { Line } from './line.ts';\nexport const words = (msg: Line): void => {};", undefined, undefined],
  ["export function words<T>(msg: T): T { return msg; }", undefined, undefined],
  ["export const words = (msg: { a: string } & { b: string }) => msg;", undefined, undefined],
  ["interface Tree { inner: Tree; next: (x: number) => void }\nexport const words = (msg: Tree): Tree => msg;",
    { type: 'object', properties: { inner: {}, next: {} }, required: ['inner', 'next'] },
    { type: 'object', properties: { inner: {}, next: {} }, required: ['inner', 'next'] }],
  ["export const words = (msg) => 1;", undefined, undefined],
  ["export const other = (msg: { a: string }) => 1;", undefined, undefined],
  ["export const words = (msg: { a: string", undefined, undefined],
];

test('types are read from TypeScript and from JSDoc, and nothing is made up', () => {
  for (const [source, message, result] of SOURCES) {
    const found = typesIn(source, 'words');
    assert.deepEqual([found.message, found.result], [message, result], source);
  }
  const anonymous = 'export default async ({ word }: { word: string }): Promise<string> => word;';
  assert.deepEqual(typesIn(anonymous, 'default').result, text);
});
