/** Signing in, staying so, and what becomes of requests meanwhile; in Node, on a real platform. */

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { PersonaError, type PersonaClient, memoryStore } from '../src/index.js';
import { type Unit, client, fact, newAccount, next, signedIn, startEdge, startIdentity } from './platform.js';

const REFRESH = '/api/v1/auth/refresh';

let edge: Unit;
/** An edge whose access tokens live for two seconds. */
let brief: Unit;
let briefIdentity: Unit;

before(async () => {
  briefIdentity = await startIdentity(2);
  [edge, brief] = await Promise.all([startEdge(), startEdge({ IDENTITY_URL: briefIdentity.url })]);
});

after(() => Promise.all([edge?.stop(), brief?.stop(), briefIdentity?.stop('SIGKILL')]));

/** A client that goes by the tokens of another and a clock that thinks them good for an hour. */
async function withWrongClock(one: PersonaClient, options = {}): Promise<PersonaClient> {
  const store = memoryStore();
  await store.save({ ...one.session.tokens!, expiresAt: Date.now() + 3_600_000 });
  return client(brief, { store, ...options });
}

/** What failed, which must be one of ours. */
async function failure(work: Promise<unknown>): Promise<PersonaError> {
  const error = await work.then(
    () => assert.fail('nothing failed'),
    (cause: unknown) => cause,
  );
  assert.ok(error instanceof PersonaError, String(error));
  return error;
}

test('who registers is signed in, and after signing out nobody is', async () => {
  const one = client(edge);
  const account = newAccount();
  const user = await one.session.register(account);
  assert.equal(user.email, account.email);
  assert.equal((await one.api.GET('/api/v1/projects')).count, 0);
  await one.session.logout();
  assert.equal(one.session.user, undefined);
  assert.equal((await failure(one.api.GET('/api/v1/projects'))).code, 'SIGNED_OUT');
  assert.equal((await one.session.login(account)).id, user.id);
  await one.session.logout();
});

test('a refusal is an error with everything that the platform says of it', async () => {
  const one = client(edge);
  const { code, status, message, requestId } = await failure(
    one.session.login({ email: 'nobody@example.com', password: 'wrong, wrong' }),
  );
  assert.deepEqual([code, status, message], ['AUTH001', 401, 'Invalid credentials']);
  assert.match(requestId ?? '', /^[0-9a-f-]{36}$/);
  const fields = await failure(one.session.register({ ...newAccount(), email: 'no address' }));
  assert.equal(fields.code, 'REQ001');
  assert.ok('email' in (fields.details['fields'] as object), JSON.stringify(fields.details));
});

test('many requests that need a new token at once refresh once', async () => {
  const store = memoryStore();
  await store.save({ ...(await signedIn(edge)).session.tokens!, expiresAt: Date.now() });
  const one = client(edge, { store });
  const before = await edge.answered('POST', REFRESH);
  const lists = await Promise.all(Array.from({ length: 20 }, () => one.api.GET('/api/v1/projects')));
  assert.deepEqual(new Set(lists.map(({ count }) => count)), new Set([0]));
  assert.equal((await edge.answered('POST', REFRESH)) - before, 1);
});

test('a token that the platform finds expired is replaced, and what can be repeated is', async () => {
  const one = await signedIn(brief);
  await sleep(2_100);
  const late = await withWrongClock(one);
  const before = await brief.answered('POST', REFRESH);
  assert.equal((await late.api.GET('/api/v1/projects')).count, 0);
  assert.equal((await brief.answered('POST', REFRESH)) - before, 1);
});

test('a creation is sent again under its key, and made once', async () => {
  const keys: (string | null)[] = [];
  let lose = true;
  const losing: typeof fetch = async (input, init) => {
    const answer = await fetch(input, init);
    if (!(input instanceof Request && input.method === 'POST' && input.url.endsWith('/projects'))) return answer;
    keys.push(input.headers.get('Idempotency-Key'));
    if (!lose) return answer;
    lose = false;
    throw new TypeError('the connection broke');
  };
  const one = await signedIn(edge, { fetch: losing });
  const project = await one.api.POST('/api/v1/projects', { body: { name: 'Moon' } });
  assert.equal(keys.length, 2);
  assert.ok(keys[0] && keys[0] === keys[1], String(keys));
  const list = await one.api.GET('/api/v1/projects');
  assert.deepEqual(list.projects.map(({ id }) => id), [project.id]);
});

test('a request that may have had an effect is not sent again', async () => {
  let sent = 0;
  const losing: typeof fetch = async (input, init) => {
    if (!(input instanceof Request && input.url.endsWith('/user/password'))) return fetch(input, init);
    sent += 1;
    throw new TypeError('the connection broke');
  };
  const one = await signedIn(edge, { fetch: losing });
  const body = JSON.stringify({ current_password: 'a', new_password: 'b' });
  const error = await failure(one.fetch('/api/v1/user/password', { method: 'POST', body }));
  assert.deepEqual([error.code, sent], ['NETWORK', 1]);
});

test('a refresh whose answer was lost is repeated and nobody is signed out', async () => {
  let lose = 1;
  const losing: typeof fetch = async (input, init) => {
    const answer = await fetch(input, init);
    if (!String(input).endsWith('/refresh') || lose-- <= 0) return answer;
    throw new TypeError('the connection broke');
  };
  const one = await signedIn(edge, { fetch: losing });
  const { accessToken } = one.session.tokens!;
  await one.session.refresh();
  assert.notEqual(one.session.tokens!.accessToken, accessToken);
  assert.equal((await one.api.GET('/api/v1/projects')).count, 0);
});

test('a session that was ended elsewhere is signed out here', async () => {
  const one = await signedIn(edge);
  const store = memoryStore();
  await store.save(one.session.tokens);
  const other = client(edge, { store });
  assert.ok(await other.session.restore());
  await one.session.logout();
  const told = next(other.session, 'signedOut');
  // The edge hears of it within a second.
  const asked = Date.now();
  const error = await failure(
    (async () => {
      while (Date.now() - asked < 2_000) await other.api.GET('/api/v1/projects');
    })(),
  );
  assert.equal(error.code, 'AUTH003');
  await told;
  assert.equal(other.session.user, undefined);
});

test('a link that is refused signs nobody out', async () => {
  const one = await signedIn(edge);
  const body = JSON.stringify({ token: 'x'.repeat(43) });
  const headers = { 'Content-Type': 'application/json' };
  const error = await failure(one.fetch('/api/v1/auth/email/verify', { method: 'POST', body, headers }));
  assert.equal(error.code, 'AUTH003');
  assert.ok(one.session.user);
});

test('who asks too often waits as long as the platform says', async () => {
  const slow = await startEdge({ RATE_LIMITS: 'free=60,basic=60,premium=60,enterprise=60' });
  try {
    let refused = 0;
    const counting: typeof fetch = async (input, init) => {
      const answer = await fetch(input, init);
      if (answer.status === 429) refused += 1;
      return answer;
    };
    const one = await signedIn(slow, { fetch: counting });
    await Promise.all(Array.from({ length: 60 }, () => one.api.GET('/api/v1/projects')));
    let longest = 0;
    for (let asked = 0; refused === 0 && asked < 200; asked += 1) {
      const started = Date.now();
      await one.api.GET('/api/v1/projects');
      longest = Math.max(longest, Date.now() - started);
    }
    assert.equal(refused, 1);
    assert.ok(longest >= 1_000, `waited ${longest} ms`);
  } finally {
    await slow.stop();
  }
});

test('when the platform is away a request fails in a way that says so, and a logout keeps the session', async () => {
  const away = await startEdge();
  const one = await signedIn(away);
  await away.stop('SIGKILL');
  assert.equal((await failure(one.api.GET('/api/v1/projects'))).code, 'NETWORK');
  assert.equal((await failure(one.session.logout())).code, 'NETWORK');
  assert.ok(one.session.user);
  await one.session.forget();
  assert.equal(one.session.user, undefined);
});

test('requests and answers have the types of the document', async () => {
  const one = await signedIn(edge);
  // @ts-expect-error a name is text
  await assert.rejects(one.api.POST('/api/v1/projects', { body: { name: 7 } }), { code: 'REQ001' });
  // @ts-expect-error there is no such route
  await assert.rejects(one.api.GET('/api/v1/nothing'), { code: 'REQ002' });
  const { tiers } = await one.api.GET('/api/v1/subscription/tiers');
  const names: string[] = tiers.map(({ name }) => name);
  assert.deepEqual(names, ['free', 'basic', 'premium', 'enterprise']);
});

test('what is behind the gateway has its own errors', async () => {
  const one = await signedIn(edge);
  const error = await failure(one.fetch('/api/v1/personas/instances/none-of-ours'));
  assert.deepEqual([error.code, error.status], ['UPSTREAM', 404]);
  assert.ok(fact('CORE_MANAGER_URL'));
});
