/** One connection: opened, watched, and gone for good when it ends. */

import { asObject } from '../errors.js';
import { HEARTBEAT_LOST } from './ends.js';

/** The first message of a connection. */
export interface Hello {
  session_id: string;
  user_id: string;
  heartbeat_s: number;
  max_message_bytes: number;
}

/** A message of the platform. */
export interface Message {
  type: string;
  id?: string;
  correlation_id?: string;
  data?: unknown;
  error?: unknown;
}

export interface Ears {
  opened(hello: Hello): void;
  heard(message: Message): void;
  /** Nothing has been heard for a heartbeat: something is to be said that is answered. */
  silent(): void;
  ended(closeCode: number, reason: string): void;
}

/** How long a connection may take until the platform greets, and to answer when it was silent. */
const GREETING_MS = 15_000;
const ANSWER_MS = 8_000;

export class Connection {
  /** What it was opened with, or has been told since. */
  accessToken: string;
  hello: Hello | undefined;
  readonly #socket: WebSocket;
  readonly #ears: Ears;
  #watch: ReturnType<typeof setTimeout> | undefined;
  #over = false;

  constructor(url: string, accessToken: string, Implementation: typeof WebSocket, ears: Ears) {
    this.accessToken = accessToken;
    this.#ears = ears;
    // Browsers cannot set headers here, and a token in a URL ends up in logs.
    this.#socket = new Implementation(url, ['persona.v1', `bearer.${accessToken}`]);
    this.#socket.onmessage = (event) => this.#hear(event.data);
    this.#socket.onclose = (event) => this.#end(event.code, event.reason);
    // A close event follows.
    this.#socket.onerror = () => {};
    this.#watch = setTimeout(() => this.#giveUp(), GREETING_MS);
  }

  send(text: string): void {
    this.#socket.send(text);
  }

  /** Bytes that were said and have not left yet. */
  get unsent(): number {
    return this.#socket.bufferedAmount;
  }

  /** Nothing is heard of it after this. */
  close(closeCode = 1000): void {
    this.#over = true;
    clearTimeout(this.#watch);
    this.#socket.close(closeCode);
  }

  #hear(data: unknown): void {
    if (this.#over) return;
    const message = parse(data);
    if (message?.type === 'connected') this.hello = message.data as Hello;
    this.#listenOn();
    if (!message) return;
    if (message.type === 'connected' && this.hello) this.#ears.opened(this.hello);
    else this.#ears.heard(message);
  }

  /** The platform's own pings are not shown to a page, so silence is broken by a message of ours. */
  #listenOn(): void {
    if (!this.hello) return;
    clearTimeout(this.#watch);
    this.#watch = setTimeout(() => {
      this.#watch = setTimeout(() => this.#giveUp(), ANSWER_MS);
      this.#ears.silent();
    }, this.hello.heartbeat_s * 1000);
  }

  /** A closing handshake with nobody takes its time: the end is told at once. */
  #giveUp(): void {
    this.#end(HEARTBEAT_LOST, 'nothing is heard');
    this.#socket.close(HEARTBEAT_LOST);
  }

  #end(closeCode: number, reason: string): void {
    if (this.#over) return;
    this.#over = true;
    clearTimeout(this.#watch);
    this.#ears.ended(closeCode, reason);
  }
}

function parse(data: unknown): Message | undefined {
  try {
    const message = asObject(JSON.parse(String(data)));
    return typeof message['type'] === 'string' ? (message as unknown as Message) : undefined;
  } catch {
    return undefined;
  }
}
