/** The socket that a frontend keeps open: it comes back when the connection is lost, and lives on when its token
 * expires. */

import { PersonaError } from '../errors.js';
import { Emitter } from '../events.js';
import { type Session, signedOut } from '../session.js';
import { pauseBefore, uuid } from '../waiting.js';
import { Answers } from './answers.js';
import { Connection, type Hello, type Message } from './connection.js';
import { reactionTo } from './ends.js';
import { Outbox } from './outbox.js';
import { Workflow, type WorkflowStart } from './workflow.js';

export interface SocketEvents {
  /** There is a connection, the first or a further one. */
  open: Hello;
  /** A connection has ended, or could not be made; another is tried in `retryMs` milliseconds. */
  lost: { closeCode: number; reason: string; retryMs: number };
  /** The socket has ended for good; with `undefined` by `close()`. */
  closed: PersonaError | undefined;
  /** Role, tier, permissions or e-mail address of the user have changed. */
  changed: { role: string; tier: string; permissions: string[]; email: string };
  /** Whatever answers nothing that was sent here. */
  message: Message;
}

export interface SocketOptions {
  /** Where the platform cannot be found under `globalThis.WebSocket`: Node before 22 has none; that of `ws` will do. */
  WebSocket?: typeof WebSocket | undefined;
  /** Messages that wait at most; 100 by default. */
  queue?: number | undefined;
  /** Pauses before connecting again, in milliseconds: anything up to `first`, doubled each time up to `most`. */
  backOff?: { first: number; most: number } | undefined;
}

export interface SendOptions {
  /** Milliseconds; 30 000 by default. */
  timeout?: number;
}

/** A connection that has held so long begins a new count of attempts. */
const STABLE_MS = 10_000;
const BACK_OFF = { first: 1_000, most: 30_000 };
const TIMEOUT_MS = 30_000;
/** After a refresh that failed. */
const RENEW_AGAIN_MS = 1_000;
const LONGEST_TIMER_MS = 2 ** 31 - 1;
/** As long as the platform has not said otherwise. */
const MAX_MESSAGE_BYTES = 65_536;

export class Socket extends Emitter<SocketEvents> {
  readonly #session: Session;
  readonly #url: string;
  readonly #implementation: typeof WebSocket;
  readonly #backOff: { first: number; most: number };
  readonly #outbox: Outbox;
  readonly #answers = new Answers();
  readonly #workflows = new Map<string, Workflow>();
  readonly #deafen: (() => void)[];
  #connection: Connection | undefined;
  /** Whose the socket is; it does not become somebody else's. */
  #signIn: string | undefined;
  #failure: PersonaError | undefined;
  #closed = false;
  #attempt = 0;
  #openedAt = 0;
  #retry: ReturnType<typeof setTimeout> | undefined;
  #renewal: ReturnType<typeof setTimeout> | undefined;

  constructor(baseUrl: string, session: Session, options: SocketOptions = {}) {
    super();
    const implementation = options.WebSocket ?? globalThis.WebSocket;
    if (!implementation) throw new TypeError('There is no WebSocket here: pass one as `WebSocket`');
    this.#session = session;
    this.#url = `${baseUrl.replace(/^http/, 'ws')}/ws`;
    this.#implementation = implementation;
    this.#backOff = options.backOff ?? BACK_OFF;
    this.#outbox = new Outbox(options.queue ?? 100);
    this.#deafen = [
      session.on('refreshed', () => this.#tellToken()),
      session.on('signedIn', () => this.#leaveUnlessOurs()),
      session.on('signedOut', () => this.#stop(signedOut())),
    ];
    void this.#connect();
  }

  /** Whether there is a connection now. */
  get isOpen(): boolean {
    return this.#connection?.hello !== undefined;
  }

  /** Comes back when there is a connection. Fails when the socket has ended for good. */
  opened(): Promise<Hello> {
    const hello = this.#connection?.hello;
    if (hello) return Promise.resolve(hello);
    if (this.#closed) return Promise.reject(this.#ended());
    return new Promise((resolve, reject) => {
      const off = [
        this.on('open', (greeting) => settle(() => resolve(greeting))),
        this.on('closed', () => settle(() => reject(this.#ended()))),
      ];
      const settle = (how: () => void) => {
        off.forEach((stop) => stop());
        how();
      };
    });
  }

  /** Milliseconds to the platform and back. */
  async ping(options: SendOptions = {}): Promise<number> {
    await this.opened();
    const started = performance.now();
    await this.send('ping', undefined, options);
    return performance.now() - started;
  }

  /** Sends a message and gives what answers it. It waits while there is no connection. Fails with the error that
   * answers it, QUEUE_FULL, TOO_LARGE, TIMEOUT, CONNECTION_LOST or SOCKET_CLOSED. */
  async send(type: string, data?: unknown, { timeout = TIMEOUT_MS }: SendOptions = {}): Promise<Message> {
    const id = uuid();
    const text = this.#write(type, id, data);
    const answer = this.#answers.of(id, timeout);
    try {
      this.#outbox.push({ id, text, sent: () => this.#answers.sent(id) });
    } catch (error) {
      this.#answers.fail(id, error as PersonaError);
    }
    return answer.finally(() => this.#outbox.withdraw(id));
  }

  /** Sends a message that nobody answers; at once, or when there is a connection. Fails with QUEUE_FULL, TOO_LARGE or
   * SOCKET_CLOSED. */
  notify(type: string, data?: unknown): void {
    const id = uuid();
    this.#outbox.push({ id, text: this.#write(type, id, data), sent: () => {} });
  }

  /** Starts a workflow. After a lost connection the start is sent again under its id, which starts nothing twice: a
   * workflow that has not begun begins then, of one that has ended the end is told, and of one that runs nothing more
   * can be heard (WORKFLOW_UNFOLLOWED). Fails with QUEUE_FULL, TOO_LARGE or SOCKET_CLOSED. */
  startWorkflow(start: WorkflowStart, id: string = uuid()): Workflow {
    const text = this.#write('start_workflow', id, start);
    const workflow: Workflow = new Workflow(id, {
      ask: () => {
        this.#outbox.withdraw(id);
        this.#outbox.pushAgain(parcel);
      },
      leave: () => {
        this.#workflows.delete(id);
        this.#outbox.withdraw(id);
      },
    });
    const parcel = { id, text, sent: () => workflow.sent() };
    this.#outbox.push(parcel);
    this.#workflows.set(id, workflow);
    return workflow;
  }

  /** Ends the socket. What waits fails with SOCKET_CLOSED. */
  close(): void {
    this.#stop(undefined);
  }

  #write(type: string, id: string, data: unknown): string {
    if (this.#closed) throw this.#ended();
    const text = JSON.stringify({ type, id, data });
    const limit = this.#connection?.hello?.max_message_bytes ?? MAX_MESSAGE_BYTES;
    const bytes = new TextEncoder().encode(text).length;
    if (bytes <= limit) return text;
    throw new PersonaError('TOO_LARGE', `A message may have ${limit} bytes`, { details: { bytes, limit } });
  }

  /** The connection before it has not even been greeted: the reason may be the token, which the page is not told. */
  async #connect(doubted = false): Promise<void> {
    try {
      if (doubted) await this.#session.check();
      const accessToken = await this.#session.accessToken();
      if (this.#closed) return;
      this.#signIn ??= this.#session.tokens?.signIn;
      if (this.#signIn !== this.#session.tokens?.signIn) return this.#stop(signedOut());
      const connection: Connection = new Connection(this.#url, accessToken, this.#implementation, {
        opened: (hello) => this.#open(connection, hello),
        heard: (message) => this.#hear(message),
        silent: () => connection.send(JSON.stringify({ type: 'ping', id: uuid() })),
        ended: (closeCode, reason) => void this.#lose(connection, closeCode, reason),
      });
      this.#connection = connection;
    } catch (error) {
      if (error instanceof PersonaError && error.code !== 'SIGNED_OUT') this.#again(1006, error.message, true, error);
      else this.#stop(error instanceof PersonaError ? error : PersonaError.ofFailedFetch(error));
    }
  }

  #open(connection: Connection, hello: Hello): void {
    this.#openedAt = Date.now();
    for (const workflow of this.#workflows.values()) workflow.back();
    this.#outbox.open(connection);
    this.#tellToken();
    this.#renewInTime();
    this.emit('open', hello);
  }

  #hear(message: Message): void {
    const workflow = this.#workflows.get(message.correlation_id ?? '');
    if (workflow) workflow.hear(message);
    else if (message.type === 'auth.changed') this.emit('changed', message.data as SocketEvents['changed']);
    else if (!this.#answers.hear(message) && message.type !== 'pong') this.emit('message', message);
  }

  async #lose(connection: Connection, closeCode: number, reason: string): Promise<void> {
    const wasOpen = connection.hello !== undefined;
    if (wasOpen && Date.now() - this.#openedAt > STABLE_MS) this.#attempt = 0;
    this.#connection = undefined;
    this.#outbox.shut();
    clearTimeout(this.#renewal);
    this.#answers.lost();
    for (const workflow of this.#workflows.values()) workflow.lost();
    switch (reactionTo(closeCode)) {
      case 'stop':
        return this.#stop(new PersonaError('SOCKET_CLOSED', reason || 'refused', { details: { closeCode, reason } }));
      case 'signed out':
        await this.#tellSession(connection.accessToken);
        return this.#stop(signedOut());
      case 'renew':
        await this.#session.renew(connection.accessToken).catch(() => {});
        return this.#again(closeCode, reason, false);
      case 'reconnect':
        return this.#again(closeCode, reason, !wasOpen);
    }
  }

  /** The connection has ended with the session; the session may have had newer tokens. */
  async #tellSession(accessToken: string): Promise<void> {
    try {
      await this.#session.refused(accessToken);
      if (this.#session.tokens?.signIn === this.#signIn) await this.#session.check();
    } catch {
      // The next request will tell.
    }
  }

  /** Connects again, later. */
  #again(closeCode: number, reason: string, doubted: boolean, error?: PersonaError): void {
    if (this.#closed) return;
    const wait = pauseBefore(this.#attempt, this.#backOff);
    const retryMs = Math.max(wait, (error?.retryAfter ?? 0) * 1000);
    this.#attempt += 1;
    this.#retry = setTimeout(() => void this.#connect(doubted), retryMs);
    this.emit('lost', { closeCode, reason, retryMs });
  }

  /** Keeps the connection open with the session's newest token. */
  #tellToken(): void {
    const connection = this.#connection;
    const accessToken = this.#session.tokens?.accessToken;
    if (!connection?.hello || !accessToken || connection.accessToken === accessToken) return;
    this.#renewInTime();
    const id = uuid();
    connection.accessToken = accessToken;
    // If it is refused, the connection ends with the former token, and another is made.
    this.#answers.of(id, TIMEOUT_MS).catch(() => {});
    this.#answers.sent(id);
    connection.send(JSON.stringify({ type: 'auth.refresh', id, data: { access_token: accessToken } }));
  }

  /** Has the session refreshed before the connection ends with its token, a little apart from other tabs. */
  #renewInTime(least = 0): void {
    clearTimeout(this.#renewal);
    const wait = Math.max(least, (this.#session.dueAt ?? 0) - Date.now()) + 50 * Math.random();
    this.#renewal = setTimeout(() => void this.#renew(), Math.min(wait, LONGEST_TIMER_MS));
  }

  async #renew(): Promise<void> {
    // Without success it is tried again; when the session has ended, this socket is told so.
    await this.#session.accessToken().catch(() => {});
    if (this.isOpen) this.#renewInTime(RENEW_AGAIN_MS);
  }

  #leaveUnlessOurs(): void {
    if (this.#signIn && this.#signIn !== this.#session.tokens?.signIn) this.#stop(signedOut());
  }

  #stop(failure: PersonaError | undefined): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#failure = failure;
    this.#deafen.forEach((stop) => stop());
    clearTimeout(this.#retry);
    clearTimeout(this.#renewal);
    this.#outbox.shut();
    this.#connection?.close();
    this.#connection = undefined;
    this.#answers.failAll(this.#ended());
    for (const workflow of [...this.#workflows.values()]) workflow.fail(this.#ended());
    this.emit('closed', failure);
  }

  #ended(): PersonaError {
    return this.#failure ?? new PersonaError('SOCKET_CLOSED', 'The socket was closed');
  }
}
