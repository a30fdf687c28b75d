/** What the tabs of a browser share of one session: turns, so that one refreshes at a time; a mark, so that none
 * presents a refresh token that another has spent; and a channel, on which they hand tokens to each other. */

import { type Mark, Marks } from './marks.js';
import type { Tokens } from './tokens.js';

/** What tabs tell each other. */
export type News =
  | { kind: 'tokens'; tokens: Tokens }
  | { kind: 'ended'; generation: number }
  /** Whoever knows of something newer is to tell it. */
  | { kind: 'ask'; generation: number };

export interface Tabs {
  /** Does the work when no other tab of this session does any. */
  inTurn<T>(work: () => Promise<T>): Promise<T>;
  mark(): Promise<Mark>;
  setMark(mark: Mark): Promise<void>;
  tell(news: News): void;
  /** Who is told what the others say. */
  listen(listener: (news: News) => void): void;
  close(): void;
}

/** The tabs of a browser, or this process alone where there are none, or where the page may not use what it takes. */
export function tabs(scope: string, shared = true): Tabs {
  const possible =
    typeof document !== 'undefined' &&
    typeof BroadcastChannel !== 'undefined' &&
    typeof indexedDB !== 'undefined' &&
    // Not on pages without TLS, other than of localhost.
    navigator.locks !== undefined;
  return shared && possible ? new ManyTabs(scope) : new OneTab();
}

class OneTab implements Tabs {
  #last: Promise<unknown> = Promise.resolve();
  #mark: Mark = { generation: 0, live: false };

  inTurn<T>(work: () => Promise<T>): Promise<T> {
    const turn = this.#last.then(work);
    this.#last = turn.catch(() => {});
    return turn;
  }

  async mark(): Promise<Mark> {
    return this.#mark;
  }

  async setMark(mark: Mark): Promise<void> {
    this.#mark = mark;
  }

  tell(): void {}
  listen(): void {}
  close(): void {}
}

class ManyTabs implements Tabs {
  readonly #name: string;
  readonly #channel: BroadcastChannel;
  readonly #marks: Marks;
  #closed = false;

  constructor(scope: string) {
    this.#name = `persona:${scope}`;
    this.#channel = new BroadcastChannel(this.#name);
    this.#marks = new Marks(this.#name);
  }

  inTurn<T>(work: () => Promise<T>): Promise<T> {
    // The type of the lock manager loses what the promise holds.
    return navigator.locks.request(this.#name, work) as Promise<T>;
  }

  mark(): Promise<Mark> {
    return this.#marks.read();
  }

  setMark(mark: Mark): Promise<void> {
    return this.#marks.write(mark);
  }

  tell(news: News): void {
    if (!this.#closed) this.#channel.postMessage(news);
  }

  listen(listener: (news: News) => void): void {
    this.#channel.onmessage = (message: MessageEvent<News>) => listener(message.data);
  }

  close(): void {
    this.#closed = true;
    this.#channel.close();
    void this.#marks.close();
  }
}
