/** The client: who is signed in, requests in their name, and the socket. */

import { type Api, createApi } from './api.js';
import { Session, type SessionOptions } from './session.js';
import { Socket, type SocketOptions } from './socket/socket.js';
import { Transport } from './transport.js';

export type { Api } from './api.js';
export { type ClientCode, type Code, PersonaError } from './errors.js';
export type { components, paths } from './generated/api.js';
export type { Session, SessionEvents, SessionOptions } from './session.js';
export type { Hello, Message } from './socket/connection.js';
export type { Socket, SocketEvents, SocketOptions } from './socket/socket.js';
export type { Workflow, WorkflowStart, WorkflowStatus } from './socket/workflow.js';
export { type Tokens, type TokenStore, type UserInfo, memoryStore, webStore } from './tokens.js';

export interface ClientOptions extends SessionOptions, SocketOptions {}

export interface PersonaClient {
  session: Session;
  api: Api;
  /** `fetch` in the name of who is signed in, for routes that are not in the OpenAPI document. The path begins with a
   * slash. Fails with a `PersonaError` for every answer but 2xx. */
  fetch(path: string, init?: RequestInit): Promise<Response>;
  /** Opens a socket, which stays open until it is closed or the session ends. */
  socket(): Socket;
}

export function createClient(options: ClientOptions): PersonaClient {
  const baseUrl = options.baseUrl.replace(/\/+$/, '');
  const session = new Session({ ...options, baseUrl });
  const transport = new Transport(baseUrl, session, options.fetch ?? fetch.bind(globalThis));
  return {
    session,
    api: createApi(baseUrl, (request) => transport.send(request)),
    fetch: (path, init) => transport.send(new Request(`${baseUrl}${path}`, init)),
    socket: () => new Socket(baseUrl, session, options),
  };
}
