/** Messages that were sent and whose answers are awaited, by their ids. */

import { PersonaError } from '../errors.js';
import type { Message } from './connection.js';

interface Awaited {
  resolve(message: Message): void;
  reject(error: PersonaError): void;
  /** Whether it has left. */
  sent: boolean;
}

export class Answers {
  readonly #awaited = new Map<string, Awaited>();

  /** The answer to the message with this id, for so many milliseconds. */
  of(id: string, patience: number): Promise<Message> {
    return new Promise<Message>((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#awaited.delete(id);
        reject(new PersonaError('TIMEOUT', `No answer within ${patience} ms`));
      }, patience);
      const settle = () => {
        clearTimeout(timer);
        this.#awaited.delete(id);
      };
      this.#awaited.set(id, {
        resolve: (message) => (settle(), resolve(message)),
        reject: (error) => (settle(), reject(error)),
        sent: false,
      });
    });
  }

  sent(id: string): void {
    const awaited = this.#awaited.get(id);
    if (awaited) awaited.sent = true;
  }

  /** Gives whether somebody has waited for it. */
  hear(message: Message): boolean {
    const awaited = this.#awaited.get(message.correlation_id ?? '');
    if (!awaited) return false;
    if (message.type === 'error') awaited.reject(PersonaError.ofMessage(message.error));
    else awaited.resolve(message);
    return true;
  }

  fail(id: string, error: PersonaError): void {
    this.#awaited.get(id)?.reject(error);
  }

  /** The connection is gone: what has left is answered no more. */
  lost(): void {
    const error = new PersonaError('CONNECTION_LOST', 'The connection broke before the answer came');
    for (const awaited of [...this.#awaited.values()]) if (awaited.sent) awaited.reject(error);
  }

  failAll(error: PersonaError): void {
    for (const awaited of [...this.#awaited.values()]) awaited.reject(error);
  }
}
