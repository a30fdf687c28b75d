/** What follows from each close code, and from silence; with a server that does as it is told, since a healthy edge does
 * not give most of them. */

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { after, before, test } from 'node:test';
import { WebSocketServer, type WebSocket as Peer } from 'ws';
import { type PersonaError, createClient, memoryStore } from '../src/index.js';
import { WebSocket, next } from './platform.js';

const TOKENS = {
  accessToken: 'a.b.c',
  refreshToken: 'r',
  user: { id: 'u' } as never,
  askedAt: Date.now(),
  expiresAt: Date.now() + 3_600_000,
  signIn: 's',
  generation: 1,
};

let server: WebSocketServer;

before(async () => {
  server = new WebSocketServer({ port: 0, host: '127.0.0.1', handleProtocols: () => 'persona.v1' });
  await once(server, 'listening');
});

after(() => server.close());

/** A socket, and what the server is to do with each of its connections. */
async function connect(greet: (peer: Peer, offered: string) => void) {
  server.removeAllListeners('connection');
  server.on('connection', (peer, request) => greet(peer, String(request.headers['sec-websocket-protocol'])));
  const store = memoryStore();
  await store.save(TOKENS);
  const { port } = server.address() as { port: number };
  const one = createClient({ baseUrl: `http://127.0.0.1:${port}`, store, WebSocket, backOff: { first: 20, most: 50 } });
  return { one, socket: one.socket() };
}

function hello(peer: Peer, heartbeat_s = 25): void {
  const data = { session_id: 's', user_id: 'u', heartbeat_s, max_message_bytes: 65536 };
  peer.send(JSON.stringify({ type: 'connected', id: '1', data }));
}

for (const code of [1002, 1003, 1007, 1008, 1009, 4429]) {
  test(`close code ${code} stops the socket`, async () => {
    let connections = 0;
    const { socket } = await connect((peer) => {
      connections += 1;
      hello(peer);
      peer.close(code, 'as told');
    });
    const error = await next<PersonaError>(socket, 'closed');
    assert.deepEqual([error.code, error.details], ['SOCKET_CLOSED', { closeCode: code, reason: 'as told' }]);
    assert.equal(connections, 1);
    socket.close();
  });
}

for (const code of [1001, 1011, 1012, 1013, 4408]) {
  test(`after close code ${code} the socket comes back`, async () => {
    let connections = 0;
    const { socket } = await connect((peer) => {
      connections += 1;
      hello(peer);
      if (connections < 4) peer.close(code);
    });
    const pauses: number[] = [];
    const done = new Promise<void>((resolve) => socket.on('open', () => connections === 4 && resolve()));
    socket.on('lost', ({ closeCode, retryMs }) => {
      assert.equal(closeCode, code);
      pauses.push(retryMs);
    });
    await done;
    assert.equal(pauses.length, 3);
    assert.ok(pauses.every((ms) => ms >= 0 && ms <= 50), String(pauses));
    socket.close();
  });
}

test('close code 4403 signs out', async () => {
  const { one, socket } = await connect((peer) => {
    hello(peer);
    peer.close(4403);
  });
  const [error] = await Promise.all([next<PersonaError>(socket, 'closed'), next(one.session, 'signedOut')]);
  assert.equal(error.code, 'SIGNED_OUT');
});

test('the token is offered as a subprotocol and nowhere else', async () => {
  const offered = new Promise<string>((resolve) => {
    void connect((peer, protocols) => {
      hello(peer);
      resolve(protocols);
    }).then(({ socket }) => socket.on('open', () => socket.close()));
  });
  assert.equal(await offered, 'persona.v1,bearer.a.b.c');
});

test('a connection of which nothing is heard is given up and made anew', { timeout: 20_000 }, async () => {
  let connections = 0;
  const said: string[] = [];
  const { socket } = await connect((peer) => {
    connections += 1;
    hello(peer, 0.2);
    peer.on('message', (data) => said.push(String(data)));
  });
  assert.equal((await next<{ closeCode: number }>(socket, 'lost')).closeCode, 4408);
  await socket.opened();
  assert.equal(connections, 2);
  assert.match(said[0] ?? '', /"type":"ping"/);
  socket.close();
});
