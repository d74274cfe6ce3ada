// The types that a source states of a handler, in TypeScript or JSDoc, as JSON Schema. No I/O here.
//
// Only what can be told from the text of this one file is told: of a type that is imported, is
// generic or is computed, nothing. The host compares types, and nothing depends on them at run time.

const PLAIN = {
  string: { type: 'string' },
  boolean: { type: 'boolean' },
  true: { enum: [true] },
  false: { enum: [false] },
  null: { type: 'null' },
  bigint: { type: 'integer' },
  Date: { type: 'string', format: 'date-time' },
  Uint8Array: { type: 'string', format: 'binary' },
  Buffer: { type: 'string', format: 'binary' },
  object: { type: 'object' },
};
const LISTS = ['Array', 'ReadonlyArray', 'Set', 'ReadonlySet'];
const STREAMS = ['Generator', 'AsyncGenerator', 'Iterator', 'AsyncIterator', 'IterableIterator'];
STREAMS.push('AsyncIterable', 'AsyncIterableIterator', 'IteratorObject');
const NOTHING = Symbol('undefined');
const TOKEN = /\s+|\/\/.*|\/\*[^]*?\*\/|=>|\.\.\.|"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|-?\d[\w.]*|[\w$]+|[^]/y;

/**
 * Return the types of a handler, as far as *source* states them: `{ message, result }`, each a JSON
 * Schema or undefined.
 *
 * @param {string} source
 * @param {string} name the function's name; "default" for one without a name
 */
export function typesIn(source, name) {
  const found = find(source, name);
  if (!found) return {};
  try {
    const { parameter, result } = found.comment ? fromComment(source, found.comment) : {};
    const code = fromCode(source, found.end);
    return {
      message: schemaOf(code.parameter ?? parameter, source, false),
      result: resultOf(code.result ?? result, source),
    };
  } catch {
    return {}; // syntax that is not read here
  }
}

/** Find the head of a function: its end is at the parameters' bracket. */
function find(source, name) {
  const named = name.replace(/[$]/g, '\\$&');
  const asDefault = name === 'default' ? 'export\\s+default\\s+(?:async\\s*)?(?:function\\b\\s*\\*?\\s*)?' : '(?!)';
  const heads = [
    `(?:export\\s+)?(?:default\\s+)?(?:async\\s+)?function\\s*\\*?\\s*${named}\\s*`,
    `(?:export\\s+)?(?:const|let|var)\\s+${named}\\s*=\\s*(?:node\\(\\s*(?:'[^']*'|"[^"]*")?\\s*,?\\s*)?(?:async\\s*)?(?:function\\b\\s*\\*?\\s*[\\w$]*)?\\s*`,
    asDefault,
  ];
  const pattern = new RegExp(`(?:/\\*\\*((?:(?!\\*/)[^])*)\\*/\\s*)?(?:export\\s+default\\s+)?(?:(?:export\\s+)?const\\s+[\\w$]+\\s*=\\s*)?(?:node\\(\\s*(?:'[^']*'\\s*,|"[^"]*"\\s*,)?\\s*)?(?:${heads.join('|')})(?=\\()`);
  const match = pattern.exec(source);
  return match && { comment: match[1], end: match.index + match[0].length };
}

/** Read `(pattern: Type, ...): Type` at a place. */
function fromCode(source, at) {
  const reader = new Reader(source, at);
  reader.take('(');
  const parameter = readParameter(reader);
  while (reader.has(',')) reader.skip([',', ')']);
  reader.skip([')']); // there may be a default
  reader.take(')');
  const result = reader.has(':') ? reader.rest() : undefined;
  return { parameter, result };
}

function readParameter(reader) {
  if (reader.token === ')') return undefined;
  reader.skip([':', '=', ',', ')', '?']);
  reader.has('?');
  return reader.has(':') ? reader.rest() : undefined;
}

function fromComment(source, comment) {
  const text = comment.replace(/^[ \t]*\*/gm, '');
  const tags = [...text.matchAll(/@(param|returns?|yields?)\s*(?=\{)/g)].map(({ 1: tag, 0: all, index }) => {
    const { body, end } = braces(text, index + all.length);
    const [, bracket, name] = /^\s*(\[?)([\w$.]*)/.exec(text.slice(end));
    return { tag, body, name, isOptional: bracket === '[' || body.endsWith('=') };
  });
  const [first, ...others] = tags.filter(({ tag }) => tag === 'param');
  const parts = others.filter(({ name }) => name.startsWith(`${first?.name}.`));
  const fields = parts.map(({ name, body, isOptional }) => {
    return `${name.slice(first.name.length + 1)}${isOptional ? '?' : ''}: ${body.replace(/=$/, '')}`;
  });
  const parameter = fields.length ? `{ ${fields.join('; ')} }` : first?.body;
  const result = tags.find(({ tag }) => tag !== 'param');
  const yielded = result?.tag.startsWith('yield') ? `Generator<${result.body}>` : result?.body;
  return { parameter: parameter && new Reader(parameter, 0), result: yielded && new Reader(yielded, 0) };
}

/** Return the text in the braces at a place, and the place after them. */
function braces(text, start) {
  let depth = 0;
  for (let at = start; at < text.length; at += 1) {
    if (text[at] === '{') depth += 1;
    if (text[at] === '}' && (depth -= 1) === 0) return { body: text.slice(start + 1, at), end: at + 1 };
  }
  throw new SyntaxError('a brace that is not closed');
}

function schemaOf(reader, source, gives) {
  if (!reader) return undefined;
  const schema = new Types(source, gives).read(reader);
  return schema === NOTHING || isAny(schema) ? undefined : schema;
}

/** A stream's or promise's values are the results; undefined is none. */
function resultOf(reader, source) {
  if (!reader) return undefined;
  const schema = new Types(source, true).result(reader);
  return schema === NOTHING || isAny(schema) ? undefined : schema;
}

const isAny = (schema) => Object.keys(schema).length === 0;

/** Reads tokens, without space and comments. */
class Reader {
  constructor(text, at) {
    this.text = text;
    this.at = at;
    this.next();
  }

  /** Go to the next token, and return this one. Every loop here ends, since the end is an error. */
  next() {
    const { token } = this;
    if (token === '') throw new SyntaxError('the text ends too early');
    do {
      this.start = this.at;
      TOKEN.lastIndex = this.at;
      this.token = TOKEN.exec(this.text)?.[0] ?? '';
      this.at += this.token.length;
    } while (/^(\s|\/[/*])/.test(this.token));
    return token;
  }

  has(token) {
    return this.token === token && this.next() !== undefined;
  }

  take(token) {
    if (!this.has(token)) throw new SyntaxError(`${token} is not at ${this.start}`);
  }

  /** Return a reader of the type at this place, and go on behind it. */
  rest() {
    const copy = new Reader(this.text, this.start);
    new Types('', true).read(this);
    return copy;
  }

  /** Go to the next of *ends* that is in no brackets. */
  skip(ends) {
    for (let depth = 0; this.token && (depth > 0 || !ends.includes(this.token)); this.next()) {
      if ('([{'.includes(this.token)) depth += 1;
      if (')]}'.includes(this.token)) depth -= 1;
    }
  }
}

class Types {
  constructor(source, gives) {
    this.source = source;
    this.gives = gives;
    this.above = [];
  }

  /** Read a type. NOTHING stands for undefined and void. */
  read(reader) {
    reader.has('|');
    const parts = [this.readList(reader)];
    let isKnown = true;
    while (reader.token === '|' || reader.token === '&') {
      isKnown &&= reader.next() === '|'; // an intersection is not told
      parts.push(this.readList(reader));
    }
    if (!isKnown) return {};
    const values = parts.filter((part) => part !== NOTHING);
    if (values.length === 0) return NOTHING;
    if (values.some(isAny)) return {};
    if (values.every(({ enum: values }) => values)) return { enum: values.flatMap((part) => part.enum) };
    return values.length === 1 ? values[0] : { anyOf: values };
  }

  readList(reader) {
    reader.has('readonly');
    let schema = this.readOne(reader);
    while (reader.token === '[') {
      reader.next();
      const isIndexed = reader.token !== ']';
      reader.skip([']']);
      reader.take(']');
      schema = isIndexed ? {} : { type: 'array', items: schema === NOTHING ? {} : schema };
    }
    return schema;
  }

  readOne(reader) {
    if (reader.has('(')) return this.readInBrackets(reader);
    if (reader.has('{')) return this.readObject(reader);
    if (reader.has('[')) return this.readTuple(reader);
    const token = reader.next();
    if (/^['"]/.test(token)) return { enum: [token.slice(1, -1)] };
    if (/^-?\d/.test(token)) return { enum: [Number(token)] };
    if (['undefined', 'void', 'never'].includes(token)) return NOTHING;
    if (token === 'number') return this.gives ? { type: 'number' } : { type: 'number', format: 'double' };
    if (reader.token === '<') return this.readGeneric(token, reader);
    if (reader.token === '.') reader.skip([',', ';', ')', '}', '|', '>', '=', '{', '']);
    else if (Object.hasOwn(PLAIN, token)) return { ...PLAIN[token] };
    else if (/^[\w$]+$/.test(token)) return this.readNamed(token);
    else throw new SyntaxError(`${token} is no type`);
    return {};
  }

  readInBrackets(reader) {
    const inner = new Reader(reader.text, reader.start);
    reader.skip([')']);
    reader.take(')');
    if (!reader.has('=>')) return this.read(inner);
    this.read(reader); // a function is not a value of the wire
    return {};
  }

  readObject(reader) {
    const properties = {};
    const required = [];
    let values;
    while (!reader.has('}')) {
      reader.has('readonly');
      if (reader.has('[')) {
        reader.skip([']']);
        reader.take(']');
        reader.take(':');
        values = this.read(reader);
      } else {
        const name = reader.next().replace(/^['"]|['"]$/g, '');
        const isOptional = reader.has('?');
        if (reader.token === '(') throw new SyntaxError('a method');
        const start = new Reader(reader.text, reader.start);
        if (reader.has(':')) {
          const mayLack = mayBeUndefined(start);
          const schema = this.read(reader);
          properties[name] = schema === NOTHING ? {} : schema;
          if (!isOptional && !mayLack) required.push(name);
        }
      }
      if (!reader.has(';')) reader.has(',');
    }
    if (values) return { type: 'object', additionalProperties: values };
    return { type: 'object', properties, required };
  }

  readTuple(reader) {
    const items = [];
    while (!reader.has(']')) {
      if (reader.token === '...') throw new SyntaxError('a tuple of any length');
      items.push(this.read(reader));
      reader.has(',');
    }
    return { type: 'array', prefixItems: items };
  }

  readGeneric(name, reader) {
    reader.take('<');
    const parts = [];
    while (!reader.has('>')) {
      parts.push(this.read(reader));
      reader.has(',');
      if (!reader.token) throw new SyntaxError('a type that is not closed');
    }
    const [first = {}, second = {}] = parts.map((part) => (part === NOTHING ? {} : part));
    if (LISTS.includes(name)) return { type: 'array', items: first };
    if (name === 'Record') return { type: 'object', additionalProperties: second };
    return {};
  }

  /** Read a type that is declared in the same file. */
  readNamed(name) {
    if (['any', 'unknown', 'symbol', 'T'].includes(name) || this.above.includes(name)) return {};
    const declared = new RegExp(`\\b(?:interface\\s+${name}\\s*(?=\\{)|type\\s+${name}\\s*=\\s*)`).exec(this.source);
    const typedef = new RegExp(`@typedef\\s*(?=\\{)`, 'g');
    this.above.push(name);
    try {
      if (declared) return this.read(new Reader(this.source, declared.index + declared[0].length));
      for (const { 0: all, index } of this.source.matchAll(typedef)) {
        const { body, end } = braces(this.source, index + all.length);
        if (new RegExp(`^\\s*${name}\\b`).test(this.source.slice(end))) {
          return this.read(new Reader(body.replace(/^[ \t]*\*/gm, ''), 0));
        }
      }
      return {};
    } finally {
      this.above.pop();
    }
  }

  /** Read the type of a return value: that of a promise's value, and of a stream's results. */
  result(reader) {
    const name = reader.token;
    if (name !== 'Promise' && !STREAMS.includes(name)) return this.read(reader);
    reader.next();
    reader.take('<');
    return this.result(reader);
  }
}

function mayBeUndefined(reader) {
  for (let depth = 0; reader.token; reader.next()) {
    if ('([{<'.includes(reader.token)) depth += 1;
    if (')]}>'.includes(reader.token)) depth -= 1;
    if (depth < 0 || (depth === 0 && [';', ','].includes(reader.token))) return false;
    if (depth === 0 && reader.token === 'undefined') return true;
  }
  return false;
}
