/** What was written down from the OpenAPI document is what the document says. */

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { promisify } from 'node:util';
import { isCreating, isPublic } from '../src/routes.js';

const HERE = new URL('../../', import.meta.url);
const DOCUMENT = new URL('../../docs/openapi.json', HERE);

interface Operation {
  security?: object[];
  parameters?: { $ref?: string; name?: string }[];
}

async function operations(): Promise<{ path: string; method: string; operation: Operation }[]> {
  const { paths } = JSON.parse(await readFile(DOCUMENT, 'utf8')) as { paths: Record<string, Record<string, Operation>> };
  return Object.entries(paths).flatMap(([path, item]) =>
    Object.entries(item).map(([method, operation]) => ({ path, method, operation })),
  );
}

test('the types are those of the document', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'persona-client-'));
  try {
    const renewed = join(folder, 'api.ts');
    const program = new URL('node_modules/.bin/openapi-typescript', HERE).pathname;
    await promisify(execFile)(program, [DOCUMENT.pathname, '--output', renewed]);
    const committed = await readFile(new URL('src/generated/api.ts', HERE), 'utf8');
    assert.ok(committed === (await readFile(renewed, 'utf8')), 'src/generated/api.ts is out of date: npm run generate');
  } finally {
    await rm(folder, { recursive: true });
  }
});

test('the routes that need no token are those of the document', async () => {
  for (const { path, method, operation } of await operations()) {
    const documented = operation.security?.some((way) => Object.keys(way).length === 0) ?? false;
    assert.equal(isPublic(path), documented, `${method} ${path}`);
  }
});

test('the routes that honour an Idempotency-Key are those of the document', async () => {
  for (const { path, method, operation } of await operations()) {
    if (method !== 'post') continue;
    const documented = operation.parameters?.some(({ $ref, name }) => $ref?.endsWith('/IdempotencyKey') || name === 'Idempotency-Key');
    assert.equal(isCreating(path), documented ?? false, path);
  }
  assert.ok(isCreating('/api/v1/things'), 'a route that an operator has added');
});
