/** Pauses, and ids that need no secure context. */

import { PersonaError } from './errors.js';

/** Full jitter: anything between nothing and a bound that doubles, so that clients do not come back all at once. */
export function pauseBefore(attempt: number, { first, most }: { first: number; most: number }): number {
  return Math.random() * Math.min(most, first * 2 ** attempt);
}

/** Waits `ms` milliseconds. Fails with ABORTED when the signal says so. */
export function pause(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const giveUp = () => {
      clearTimeout(timer);
      reject(PersonaError.ofFailedFetch(new DOMException('given up', 'AbortError')));
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener('abort', giveUp);
      resolve();
    }, ms);
    if (signal?.aborted) giveUp();
    else signal?.addEventListener('abort', giveUp, { once: true });
  });
}

/** A random UUID (version 4). `crypto.randomUUID` is not there on pages without TLS. */
export function uuid(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6]! & 0x0f) | 0x40;
  bytes[8] = (bytes[8]! & 0x3f) | 0x80;
  const hex = [...bytes].map((byte) => byte.toString(16).padStart(2, '0')).join('');
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-');
}
