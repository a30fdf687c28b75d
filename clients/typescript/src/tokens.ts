/** The tokens of a session, and where they are kept. */

import type { components } from './generated/api.js';

export type UserInfo = components['schemas']['UserInfo'];

export interface Tokens {
  accessToken: string;
  /** Good for one use. */
  refreshToken: string;
  user: UserInfo;
  /** When the access token was asked for and when it expires, in milliseconds of this machine's clock. */
  askedAt: number;
  expiresAt: number;
  /** The sign-in that they come from; all of its refreshes have it. */
  signIn: string;
  /** Grows with every refresh, sign-in and sign-out of any tab. */
  generation: number;
}

/** Where tokens outlive the page, if anywhere. */
export interface TokenStore {
  load(): Tokens | undefined | Promise<Tokens | undefined>;
  save(tokens: Tokens | undefined): void | Promise<void>;
}

/** Keeps tokens as long as the page. The default: see the README for what speaks against `localStorage`. */
export function memoryStore(): TokenStore {
  let kept: Tokens | undefined;
  return {
    load: () => kept,
    save: (tokens) => {
      kept = tokens;
    },
  };
}

/** Keeps tokens in a `Storage`, where every script of this origin can read them: `sessionStorage` for a reload,
 * `localStorage` for longer. */
export function webStore(storage: Storage, key = 'persona.tokens'): TokenStore {
  return {
    load: () => read(storage.getItem(key)),
    save: (tokens) => (tokens ? storage.setItem(key, JSON.stringify(tokens)) : storage.removeItem(key)),
  };
}

/** What somebody else has written there is no session. */
function read(text: string | null): Tokens | undefined {
  try {
    const tokens = JSON.parse(text ?? 'null') as Tokens | null;
    return typeof tokens?.refreshToken === 'string' && Number.isInteger(tokens.generation) ? tokens : undefined;
  } catch {
    return undefined;
  }
}
