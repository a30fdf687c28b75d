/** Tabs of a real browser on a real platform. */

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { type Server, createServer } from 'node:http';
import { after, afterEach, before, beforeEach, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Browser, type BrowserContext, type Page, chromium } from 'playwright-core';
import type { PersonaClient, Socket } from '../src/index.js';
import { type Unit, newAccount, startEdge, startIdentity } from './platform.js';

const PROGRAM = process.env['CHROMIUM'] ?? '/usr/bin/chromium';
const FLAGS = [
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
];
const REFRESH = '/api/v1/auth/refresh';
/** The client as it is built, and what it imports by name. */
const SOURCES = new URL('../src/', import.meta.url);
const OPENAPI_FETCH = new URL('../../node_modules/openapi-fetch/dist/index.mjs', import.meta.url);
const PAGE = `<!doctype html><title>test</title>
<script type="importmap">{"imports": {"openapi-fetch": "/openapi-fetch.mjs"}}</script>`;

/** What the functions that run in a page find there. */
declare global {
  var one: PersonaClient;
  var socket: Socket;
  var seen: unknown[];
}

let frontend: Server;
let browser: Browser;
let edge: Unit;
/** An edge whose access tokens live for two seconds. */
let brief: Unit;
let briefIdentity: Unit;
let context: BrowserContext;

before(async () => {
  frontend = createServer((request, response) => void serve(request.url ?? '/', response));
  await once(frontend.listen(0), 'listening');
  briefIdentity = await startIdentity(2);
  const origins = { ALLOWED_ORIGINS: address('localhost') };
  edge = await startEdge(origins);
  brief = await startEdge({ ...origins, IDENTITY_URL: briefIdentity.url });
  browser = await chromium.launch({ executablePath: PROGRAM, args: FLAGS });
});

after(async () => {
  await browser?.close();
  await Promise.all([edge?.stop(), brief?.stop(), briefIdentity?.stop('SIGKILL')]);
  frontend.close();
});

beforeEach(async () => {
  context = await browser.newContext();
});

afterEach(() => context.close());

function address(host: string): string {
  return `http://${host}:${(frontend.address() as { port: number }).port}`;
}

async function serve(path: string, response: import('node:http').ServerResponse): Promise<void> {
  if (path === '/') return void response.setHeader('Content-Type', 'text/html').end(PAGE);
  const file = path === '/openapi-fetch.mjs' ? OPENAPI_FETCH : new URL(`.${path.slice('/client'.length)}`, SOURCES);
  try {
    response.setHeader('Content-Type', 'text/javascript').end(await readFile(file));
  } catch {
    response.writeHead(404).end();
  }
}

/** A tab in which `one` is a client of this edge. */
async function tab(of: Unit, { host = 'localhost', store = '' } = {}): Promise<Page> {
  const page = await context.newPage();
  await page.goto(address(host));
  await load(page, of, store);
  return page;
}

async function load(page: Page, of: Unit, store = ''): Promise<void> {
  const options = { baseUrl: of.url, store };
  await page.evaluate(async ({ baseUrl, store }) => {
    const { createClient, memoryStore, webStore } = (await import('/client/index.js' as string)) as typeof import('../src/index.js');
    const kept = store === 'localStorage' ? webStore(localStorage) : memoryStore();
    globalThis.one = createClient({ baseUrl, store: kept, backOff: { first: 100, most: 500 } });
  }, options);
}

function register(page: Page): Promise<string> {
  return page.evaluate(async (account) => (await one.session.register(account)).id, newAccount());
}

function restored(page: Page): Promise<string | undefined> {
  return page.evaluate(async () => (await one.session.restore())?.id);
}

function list(page: Page): Promise<number> {
  return page.evaluate(async () => (await one.api.GET('/api/v1/projects')).count);
}

function refresh(page: Page): Promise<string> {
  return page.evaluate(async () => (await one.session.refresh()).accessToken);
}

/** The code of the error that a function in the page fails with. */
function failureOf(page: Page, work: string): Promise<string> {
  return page.evaluate(`(async () => { try { await (${work}); return 'none' } catch (e) { return e.code ?? String(e) } })()`);
}

test('of two tabs that refresh at once one does, and both go on', async () => {
  const [first, second] = [await tab(edge), await tab(edge)];
  const user = await register(first);
  assert.equal(await restored(second), user);
  for (let round = 0; round < 5; round += 1) {
    const before = await edge.answered('POST', REFRESH);
    // Both find theirs expired before either has asked for others.
    for (const page of [first, second]) await page.evaluate(() => Object.assign(one.session.tokens!, { expiresAt: 0 }));
    const together = (page: Page) =>
      page.evaluate(async () => {
        await one.api.GET('/api/v1/projects');
        return one.session.tokens!.accessToken;
      });
    const [a, b] = await Promise.all([together(first), together(second)]);
    assert.equal(a, b);
    assert.equal((await edge.answered('POST', REFRESH)) - before, 1, `round ${round}`);
  }
});

test('a tab that is opened later has the session, which no storage has', async () => {
  const first = await tab(edge);
  const user = await register(first);
  const second = await tab(edge);
  assert.equal(await restored(second), user);
  const kept = await second.evaluate(() => JSON.stringify([{ ...localStorage }, { ...sessionStorage }, document.cookie]));
  assert.equal(kept, '[{},{},""]');
  await first.close();
  assert.equal(await list(second), 0);
  await second.close();
  assert.equal(await restored(await tab(edge)), undefined);
});

test('with localStorage a reload keeps the session', async () => {
  const page = await tab(edge, { store: 'localStorage' });
  const user = await register(page);
  await page.reload();
  await load(page, edge, 'localStorage');
  assert.equal(await restored(page), user);
  await refresh(page);
  await page.reload();
  await load(page, edge, 'localStorage');
  assert.equal(await list(page), 0);
  await page.evaluate(() => one.session.logout());
  assert.equal(await page.evaluate(() => localStorage.length), 0);
});

test('a tab that is closed in the middle of its refresh signs nobody out', async () => {
  const [first, second] = [await tab(edge), await tab(edge)];
  const user = await register(first);
  assert.equal(await restored(second), user);
  const arrived = new Promise<void>((resolve) => {
    // The platform gives new tokens, and nobody hears of them.
    void first.route(`**${REFRESH}`, async (route) => {
      await route.fetch();
      resolve();
    });
  });
  const broken = refresh(first).catch(() => {});
  await arrived;
  const waiting = refresh(second);
  await first.close();
  await Promise.all([broken, waiting]);
  assert.equal(await list(second), 0);
});

test('a tab that has missed the others signs itself out and not them', async () => {
  const [first, deaf] = [await tab(edge), await tab(edge)];
  const user = await register(first);
  assert.equal(await restored(deaf), user);
  // From here on it hears nothing, as a page that rests in the history.
  await deaf.evaluate(() => one.session.close());
  await refresh(first);
  await list(first);
  const before = await edge.answered('POST', REFRESH);
  assert.equal(await failureOf(deaf, 'one.session.refresh()'), 'SIGNED_OUT');
  assert.equal((await edge.answered('POST', REFRESH)) - before, 0, 'a spent token was presented');
  assert.equal(await list(first), 0);
});

test('a logout in one tab ends the session of the others and their sockets', async () => {
  const [first, second, third] = [await tab(edge), await tab(edge), await tab(edge)];
  await register(first);
  await restored(third);
  await third.evaluate(() => {
    globalThis.seen = [];
    one.session.on('signedOut', () => seen.push('signed out'));
  });
  await restored(second);
  await second.evaluate(async () => {
    globalThis.seen = [];
    one.session.on('signedOut', () => seen.push('signed out'));
    globalThis.socket = one.socket();
    socket.on('closed', (error) => seen.push(error?.code));
    await socket.opened();
  });
  await first.evaluate(() => one.session.logout());
  await second.waitForFunction(() => seen.length === 2);
  assert.deepEqual(await second.evaluate(() => seen), ['signed out', 'SIGNED_OUT']);
  assert.equal(await second.evaluate(() => one.session.user), undefined);
  // This one sends nothing, so that it can only have heard of it from the first.
  await third.waitForFunction(() => seen.length === 1);
});

test('only pages of allowed origins get anything', async () => {
  const stranger = await tab(edge, { host: '127.0.0.1' });
  const login = `one.session.login(${JSON.stringify({ email: 'a@example.com', password: 'wrong, wrong' })})`;
  assert.equal(await failureOf(stranger, login), 'NETWORK');
  const page = await tab(edge);
  assert.equal(await failureOf(page, login), 'AUTH001');
});

test('a creation with its Idempotency-Key and a refusal with its request id pass between origins', async () => {
  const page = await tab(edge);
  await register(page);
  const made = await page.evaluate(async () => {
    await one.api.POST('/api/v1/projects', { body: { name: 'Moon' } });
    const refusal = await one.fetch('/api/v1/personas/instances/none-of-ours').catch((error: unknown) => error);
    return { count: (await one.api.GET('/api/v1/projects')).count, id: (refusal as { requestId?: string }).requestId };
  });
  assert.equal(made.count, 1);
  assert.match(made.id ?? '', /^[0-9a-f-]{36}$/);
});

test('a trace that a page begins goes on behind the gateway', async () => {
  const own = await startEdge({
    ALLOWED_ORIGINS: address('localhost'),
    GATEWAY_ROUTES: 'GET /api/v1/echo/{*rest} user',
  });
  try {
    const page = await tab(own);
    await register(page);
    const trace = '0af7651916cd43dd8448eb211c80319c';
    const told = await page.evaluate(
      async ({ baseUrl, traceparent }) => {
        const { createClient, memoryStore } = (await import('/client/index.js' as string)) as typeof import('../src/index.js');
        const store = memoryStore();
        await store.save(one.session.tokens!);
        // As OpenTelemetry's instrumentation of fetch does.
        const traced: typeof fetch = (input, init) => {
          const request = new Request(input, init);
          request.headers.set('traceparent', traceparent);
          return fetch(request);
        };
        const client = createClient({ baseUrl, store, shareTabs: false, fetch: traced });
        return (await client.fetch('/api/v1/echo/trace')).json() as Promise<{ headers: [string, string][] }>;
      },
      { baseUrl: own.url, traceparent: `00-${trace}-b7ad6b7169203331-01` },
    );
    const passed = told.headers.find(([name]) => name === 'traceparent')?.[1];
    assert.match(passed ?? '', new RegExp(`^00-${trace}-(?!b7ad6b7169203331)[0-9a-f]{16}-01$`));
  } finally {
    await own.stop();
  }
});

test('a workflow tells its progress in a page, and its socket comes back after a restart of the edge', async () => {
  const own = await startEdge({ ALLOWED_ORIGINS: address('localhost') });
  try {
    const page = await tab(own);
    await register(page);
    const progress = await page.evaluate(async () => {
      globalThis.socket = one.socket();
      const { id } = await one.api.POST('/api/v1/projects', { body: { name: 'Moon' } });
      const parameters = { steps: 4, step_ms: 20 };
      const start = { workflow_type: 'demo', agent_instance_id: 'guide', project_id: id, parameters };
      const heard = [];
      for await (const { status, progress } of socket.startWorkflow(start)) heard.push([status, progress]);
      globalThis.seen = [];
      socket.on('lost', ({ closeCode }) => seen.push(closeCode));
      return heard;
    });
    assert.deepEqual(progress.map(([, share]) => share), [0, 0.25, 0.5, 0.75, 1]);
    assert.equal(progress.at(-1)![0], 'completed');
    await own.stop();
    await page.waitForFunction(() => seen.length > 1);
    await own.start();
    assert.ok((await page.evaluate(() => socket.ping())) > 0);
    assert.equal(await page.evaluate(() => seen[0]), 1001);
  } finally {
    await own.stop();
  }
});

test('a socket in a page outlives its tokens', async () => {
  const page = await tab(brief);
  await register(page);
  const before = await brief.answered('GET', '/ws');
  await page.evaluate(async () => {
    globalThis.socket = one.socket();
    await socket.opened();
  });
  // Four lives of a token, and the grace that a socket has after its own.
  await sleep(13_000);
  assert.ok((await page.evaluate(() => socket.ping())) > 0);
  assert.equal((await brief.answered('GET', '/ws')) - before, 1, 'more than one connection');
});
