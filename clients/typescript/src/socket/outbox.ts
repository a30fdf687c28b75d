/** Messages that wait to be sent: so many at most, and no faster than the platform takes them. */

import { PersonaError } from '../errors.js';

export interface Parcel {
  id: string;
  text: string;
  /** It has left: from now on it may have an effect. */
  sent(): void;
}

/** The platform closes with 1008 above 50 frames a second, of which answers to its pings are some. */
const A_SECOND = 40;
const AT_ONCE = 40;
/** Bytes on their way above which nothing more is said. */
const MOST_UNSENT = 1024 * 1024;
const LOOK_MS = 25;

interface Way {
  send(text: string): void;
  readonly unsent: number;
}

export class Outbox {
  readonly #most: number;
  #waiting: Parcel[] = [];
  #way: Way | undefined;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #allowed = AT_ONCE;
  #countedAt = Date.now();

  constructor(most: number) {
    this.#most = most;
  }

  /** Fails with QUEUE_FULL. */
  push(parcel: Parcel): void {
    if (this.#waiting.length >= this.#most) {
      throw new PersonaError('QUEUE_FULL', `${this.#most} messages wait to be sent already`);
    }
    this.#waiting.push(parcel);
    this.#pump();
  }

  /** What has left before and has to leave again goes first, and was admitted then. */
  pushAgain(parcel: Parcel): void {
    this.#waiting.unshift(parcel);
    this.#pump();
  }

  withdraw(id: string): void {
    this.#waiting = this.#waiting.filter((parcel) => parcel.id !== id);
  }

  open(way: Way): void {
    this.#way = way;
    this.#pump();
  }

  shut(): void {
    this.#way = undefined;
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  #pump(): void {
    if (this.#timer !== undefined) return;
    while (this.#way && this.#waiting.length > 0) {
      if (this.#way.unsent > MOST_UNSENT || !this.#mayGo()) {
        this.#timer = setTimeout(() => {
          this.#timer = undefined;
          this.#pump();
        }, LOOK_MS);
        return;
      }
      const parcel = this.#waiting.shift()!;
      this.#way.send(parcel.text);
      parcel.sent();
    }
  }

  #mayGo(): boolean {
    const now = Date.now();
    this.#allowed = Math.min(AT_ONCE, this.#allowed + ((now - this.#countedAt) / 1000) * A_SECOND);
    this.#countedAt = now;
    if (this.#allowed < 1) return false;
    this.#allowed -= 1;
    return true;
  }
}
