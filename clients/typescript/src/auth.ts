/** The calls that a session consists of, each alone: no token is added, nothing is renewed. */

import { PersonaError } from './errors.js';
import type { components } from './generated/api.js';
import type { Tokens, UserInfo } from './tokens.js';
import { pause, pauseBefore, uuid } from './waiting.js';

type Schemas = components['schemas'];
export type Account = Schemas['Register'];
export type Credentials = Schemas['Login'];

const ANSWER_MS = 30_000;
/** A refresh whose answer was lost is repeated with the same token, which the platform admits for a minute. */
const REFRESHES = 4;
const REFRESH_PAUSE = { first: 250, most: 2_000 };

/** Tokens that have no place among others yet. */
export type Fresh = Omit<Tokens, 'generation'>;

export class Auth {
  readonly #baseUrl: string;
  readonly #fetch: typeof fetch;

  constructor(baseUrl: string, fetchOne: typeof fetch) {
    this.#baseUrl = baseUrl;
    this.#fetch = fetchOne;
  }

  register(account: Account): Promise<Fresh> {
    return this.#tokens('register', account, uuid());
  }

  login(credentials: Credentials): Promise<Fresh> {
    return this.#tokens('login', credentials, uuid());
  }

  async refresh({ refreshToken, signIn }: Tokens): Promise<Fresh> {
    for (let attempt = 1; ; attempt += 1) {
      try {
        return await this.#tokens('refresh', { refresh_token: refreshToken }, signIn);
      } catch (error) {
        if (!isAway(error) || attempt === REFRESHES) throw error;
        await pause(pauseBefore(attempt, REFRESH_PAUSE));
      }
    }
  }

  async validate(accessToken: string): Promise<UserInfo> {
    return (await this.#post<Schemas['Validated']>('validate', undefined, accessToken)).user;
  }

  async logout(accessToken: string): Promise<void> {
    await this.#post('logout', undefined, accessToken);
  }

  async #tokens(route: string, body: object, signIn: string): Promise<Fresh> {
    const askedAt = Date.now();
    const answer = await this.#post<Schemas['TokenResponse']>(route, body);
    const { access_token: accessToken, refresh_token: refreshToken, user } = answer;
    return { accessToken, refreshToken, user, askedAt, expiresAt: askedAt + answer.expires_in * 1000, signIn };
  }

  async #post<T>(route: string, body?: object, accessToken?: string): Promise<T> {
    const headers: Record<string, string> = {};
    if (body) headers['Content-Type'] = 'application/json';
    if (accessToken) headers['Authorization'] = `Bearer ${accessToken}`;
    const init: RequestInit = { method: 'POST', headers, signal: AbortSignal.timeout(ANSWER_MS) };
    if (body) init.body = JSON.stringify(body);
    let response: Response;
    try {
      response = await this.#fetch(`${this.#baseUrl}/api/v1/auth/${route}`, init);
      if (response.ok) return (await response.json()) as T;
    } catch (cause) {
      throw PersonaError.ofFailedFetch(cause);
    }
    throw await PersonaError.of(response);
  }
}

export function codeOf(error: unknown): string {
  return error instanceof PersonaError ? error.code : '';
}

/** Whether the platform has said that the session is no more. */
export function isOver(error: unknown): boolean {
  return ['AUTH002', 'AUTH003', 'SIGNED_OUT'].includes(codeOf(error));
}

/** Whether there was no verdict, so that asking again may give one. */
export function isAway(error: unknown): boolean {
  return error instanceof PersonaError && (error.status === 0 || error.status >= 500) && error.code !== 'SIGNED_OUT';
}
