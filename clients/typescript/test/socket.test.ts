/** The socket in Node, on a real platform whose edges are restarted, killed and shut. */

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { PersonaError, type WorkflowStatus, memoryStore } from '../src/index.js';
import { type Unit, client, next, signedIn, startEdge, startIdentity, workflowOf } from './platform.js';

/** The stand-in for core-manager answers this with no message at all. */
const UNANSWERED = ['stub.flood', { count: 0 }] as const;

let edge: Unit;

before(async () => {
  edge = await startEdge();
});

after(() => edge?.stop());

async function failure(work: Promise<unknown>): Promise<PersonaError> {
  const error = await work.then(
    () => assert.fail('nothing failed'),
    (cause: unknown) => cause,
  );
  assert.ok(error instanceof PersonaError, String(error));
  return error;
}

async function all(statuses: AsyncIterable<WorkflowStatus>): Promise<WorkflowStatus[]> {
  const heard = [];
  for await (const status of statuses) heard.push(status);
  return heard;
}

test('each message gets its own answer', async () => {
  const socket = (await signedIn(edge)).socket();
  try {
    const { user_id, heartbeat_s } = await socket.opened();
    assert.ok(user_id && heartbeat_s > 0);
    const times = await Promise.all(Array.from({ length: 10 }, () => socket.ping()));
    assert.ok(times.every((ms) => ms > 0 && ms < 5_000), String(times));
    const refused = await failure(socket.send('start_workflow', { workflow_type: '' }));
    assert.equal(refused.code, 'REQ001');
    assert.ok(refused.details['fields'], JSON.stringify(refused.details));
    const unanswered = failure(socket.send(...UNANSWERED, { timeout: 300 }));
    assert.equal((await socket.send('anything')).type, 'echo');
    assert.equal((await unanswered).code, 'TIMEOUT');
  } finally {
    socket.close();
  }
});

test('a workflow tells its progress to its end', async () => {
  const one = await signedIn(edge);
  const socket = one.socket();
  try {
    const statuses = await all(socket.startWorkflow(await workflowOf(one, { steps: 3, step_ms: 20, result: 42 })));
    assert.deepEqual(statuses.map(({ status }) => status), ['in_progress', 'in_progress', 'in_progress', 'completed']);
    assert.deepEqual(statuses.map(({ progress }) => Math.round(progress! * 3)), [0, 1, 2, 3]);
    assert.equal((statuses.at(-1)!.result as { result: number }).result, 42);
    const start = await workflowOf(one);
    const failed = socket.startWorkflow({ ...start, parameters: { steps: 2, step_ms: 5, outcome: 'failed' } });
    assert.equal((await failed.result()).status, 'failed');
    const refused = socket.startWorkflow({ ...start, parameters: { refuse: true } });
    assert.equal((await failure(all(refused))).code, 'STUB');
    const others = { ...start, project_id: '0199c0de-0000-7000-8000-000000000001' };
    assert.equal((await failure(socket.startWorkflow(others).result())).code, 'PROJ001');
  } finally {
    socket.close();
  }
});

test('a start that is sent again under its id starts nothing, and is told how it ended', async () => {
  const one = await signedIn(edge);
  const start = await workflowOf(one, { steps: 1, step_ms: 5, result: 'first' });
  const [first, second] = [one.socket(), one.socket()];
  try {
    const workflow = first.startWorkflow(start);
    await workflow.result();
    const again = await all(second.startWorkflow(start, workflow.id));
    // The platform may still be writing down how it ended, and says so when it is asked once more.
    assert.ok(again.every(({ repeated }) => repeated), JSON.stringify(again));
    assert.equal(again.at(-1)?.status, 'completed');
  } finally {
    first.close();
    second.close();
  }
});

for (const [how, signal] of [['is restarted', 'SIGTERM'], ['is killed', 'SIGKILL']] as const) {
  test(`a socket comes back after its edge ${how}`, async () => {
    const own = await startEdge();
    const one = await signedIn(own);
    const socket = one.socket();
    try {
      await socket.opened();
      const runs = socket.startWorkflow(await workflowOf(one, { steps: 1, step_ms: 60_000 }));
      const statuses = runs[Symbol.asyncIterator]();
      assert.equal((await statuses.next()).value?.status, 'in_progress');
      const lost = next<{ closeCode: number }>(socket, 'lost');
      await own.stop(signal);
      assert.equal((await lost).closeCode, signal === 'SIGTERM' ? 1001 : 1006);
      // It waits for the connection, and is sent then.
      const ping = socket.ping();
      const begins = socket.startWorkflow(await workflowOfEdge(edge, one, { steps: 1, step_ms: 5 }));
      await own.start();
      await ping;
      assert.equal((await begins.result()).status, 'completed');
      // What ran is not told of any more, and the client says so instead of waiting for ever.
      const { value } = await statuses.next();
      assert.deepEqual([value?.status, value?.repeated], ['in_progress', true]);
      const error = await failure(statuses.next());
      assert.equal(error.code, 'WORKFLOW_UNFOLLOWED');
      assert.equal(error.details['id'], runs.id);
    } finally {
      socket.close();
      await own.stop();
    }
  });
}

/** The project is made through another edge, since the client's own is away. */
async function workflowOfEdge(other: Unit, one: { session: { tokens: unknown } }, parameters: Record<string, unknown>) {
  const store = memoryStore();
  await store.save(one.session.tokens as never);
  return workflowOf(client(other, { store }), parameters);
}

test('a socket outlives its tokens without a new connection', async () => {
  const identity = await startIdentity(3);
  const brief = await startEdge({ IDENTITY_URL: identity.url });
  const socket = (await signedIn(brief)).socket();
  try {
    await socket.opened();
    let lost = 0;
    socket.on('lost', () => (lost += 1));
    // Three lives of a token and the grace that a socket has after its own.
    await sleep(14_000);
    await socket.ping();
    assert.equal(lost, 0);
    assert.equal(await brief.answered('GET', '/ws'), 1);
    assert.ok((await brief.answered('POST', '/api/v1/auth/refresh')) >= 4);
  } finally {
    socket.close();
    await Promise.all([brief.stop(), identity.stop('SIGKILL')]);
  }
});

test('a token that expired while the connection was lost is replaced before the next', async () => {
  const identity = await startIdentity(2);
  const brief = await startEdge({ IDENTITY_URL: identity.url });
  const socket = (await signedIn(brief)).socket();
  try {
    await socket.opened();
    await brief.stop('SIGKILL');
    await sleep(2_500);
    await brief.start();
    await socket.ping();
  } finally {
    socket.close();
    await Promise.all([brief.stop(), identity.stop('SIGKILL')]);
  }
});

test('a restart of core-manager is survived, and what comes unasked is heard', async () => {
  const socket = (await signedIn(edge)).socket();
  try {
    await socket.opened();
    const lost = next<{ closeCode: number }>(socket, 'lost');
    socket.notify('stub.close', { code: 1012 });
    assert.equal((await lost).closeCode, 1012);
    const unasked = next<{ type: string }>(socket, 'message');
    socket.notify('stub.flood', { count: 1 });
    assert.equal((await unasked).type, 'stub.flood');
  } finally {
    socket.close();
  }
});

test('a session that ends elsewhere ends the socket for good', async () => {
  const one = await signedIn(edge);
  const store = memoryStore();
  await store.save(one.session.tokens);
  const other = client(edge, { store });
  const socket = other.socket();
  await socket.opened();
  const [ended, told] = [next<PersonaError>(socket, 'closed'), next(other.session, 'signedOut')];
  await one.session.logout();
  assert.equal((await ended).code, 'SIGNED_OUT');
  await told;
  assert.equal((await failure(socket.send('ping'))).code, 'SIGNED_OUT');
});

test('one socket too many stops and says why', async () => {
  const few = await startEdge({ WS_CONNECTIONS_PER_USER: '2' });
  const one = await signedIn(few);
  const sockets = [one.socket(), one.socket()];
  try {
    await Promise.all(sockets.map((socket) => socket.opened()));
    const error = await failure(one.socket().opened());
    assert.deepEqual([error.code, error.details['closeCode']], ['SOCKET_CLOSED', 4429]);
  } finally {
    sockets.forEach((socket) => socket.close());
    await few.stop();
  }
});

test('many messages at once are sent no faster than the platform takes them', async () => {
  const socket = (await signedIn(edge, { queue: 200 })).socket();
  try {
    await socket.opened();
    await Promise.all(Array.from({ length: 200 }, () => socket.send('ping')));
    assert.ok(socket.isOpen);
  } finally {
    socket.close();
  }
});

test('what cannot be sent is refused and not kept', async () => {
  const own = await startEdge();
  const socket = (await signedIn(own, { queue: 3 })).socket();
  try {
    await socket.opened();
    const large = await failure(socket.send('note', { text: 'x'.repeat(70_000) }));
    assert.equal(large.code, 'TOO_LARGE');
    const lost = next(socket, 'lost');
    await own.stop('SIGKILL');
    await lost;
    const waiting = Array.from({ length: 3 }, () => failure(socket.send('ping')));
    assert.equal((await failure(socket.send('ping'))).code, 'QUEUE_FULL');
    assert.throws(() => socket.notify('note'), { code: 'QUEUE_FULL' });
    socket.close();
    for (const error of await Promise.all(waiting)) assert.equal(error.code, 'SOCKET_CLOSED');
  } finally {
    socket.close();
  }
});

test('an answer that was on its way when the connection broke is not awaited for ever', async () => {
  const own = await startEdge();
  const socket = (await signedIn(own)).socket();
  try {
    await socket.opened();
    const unanswered = failure(socket.send(...UNANSWERED));
    await socket.ping();
    await own.stop('SIGKILL');
    assert.equal((await unanswered).code, 'CONNECTION_LOST');
  } finally {
    socket.close();
  }
});
