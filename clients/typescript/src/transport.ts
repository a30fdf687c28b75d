/** Requests in the name of who is signed in: with a token, with an `Idempotency-Key`, and again where that is safe. */

import { PersonaError } from './errors.js';
import { isCreating, isPublic } from './routes.js';
import type { Session } from './session.js';
import { pause, pauseBefore, uuid } from './waiting.js';

/** How often a request is sent at most, not counting the time after its token was refreshed. */
const ATTEMPTS = 3;
const PAUSE = { first: 250, most: 4_000 };
/** A longer `Retry-After` is left to the caller, in seconds. */
const LONGEST_WAIT = 10;

const REPEATABLE = new Set(['GET', 'HEAD', 'OPTIONS', 'PUT', 'DELETE']);
/** Sends requests as `fetch` does, and fails with a `PersonaError` for every answer but 2xx. */
export class Transport {
  readonly #session: Session;
  readonly #fetch: typeof fetch;
  /** The path under which the platform is, if any. */
  readonly #prefix: string;

  constructor(baseUrl: string, session: Session, fetchOne: typeof fetch) {
    this.#prefix = new URL(baseUrl, globalThis.location?.href).pathname.replace(/\/$/, '');
    this.#session = session;
    this.#fetch = fetchOne;
  }

  async send(request: Request): Promise<Response> {
    const path = new URL(request.url).pathname.slice(this.#prefix.length);
    if (request.method === 'POST' && isCreating(path) && !request.headers.has('Idempotency-Key')) {
      request.headers.set('Idempotency-Key', uuid());
    }
    const repeatable = REPEATABLE.has(request.method) || request.headers.has('Idempotency-Key');
    let renewed = false;
    for (let attempt = 1; ; ) {
      const accessToken = isPublic(path) ? undefined : await this.#session.accessToken();
      try {
        // What may be sent again must not be used up.
        return await this.#once(repeatable ? request.clone() : request, accessToken);
      } catch (error) {
        if (!(error instanceof PersonaError)) throw error;
        if (accessToken && (await this.#isReplaced(accessToken, error)) && repeatable && !renewed) {
          renewed = true;
          continue;
        }
        const wait = repeatable && attempt < ATTEMPTS ? waitBefore(attempt, error) : undefined;
        if (wait === undefined) throw error;
        attempt += 1;
        await pause(wait, request.signal);
      }
    }
  }

  /** Whether a token that was refused has a successor. */
  async #isReplaced(accessToken: string, { code }: PersonaError): Promise<boolean> {
    if (code === 'AUTH002') await this.#session.renew(accessToken);
    else if (code === 'AUTH003') await this.#session.refused(accessToken);
    else return false;
    const now = this.#session.tokens?.accessToken;
    return now !== undefined && now !== accessToken;
  }

  async #once(request: Request, accessToken: string | undefined): Promise<Response> {
    if (accessToken) request.headers.set('Authorization', `Bearer ${accessToken}`);
    let response: Response;
    try {
      response = await this.#fetch(request);
    } catch (cause) {
      throw PersonaError.ofFailedFetch(cause);
    }
    if (response.ok) return response;
    throw await PersonaError.of(response);
  }
}

/** Milliseconds until it is worth another try; `undefined` when it is not. */
function waitBefore(attempt: number, { code, retryAfter }: PersonaError): number | undefined {
  if (!['NETWORK', 'GW001', 'GW003', 'RATE001'].includes(code)) return undefined;
  if (retryAfter !== undefined) return retryAfter <= LONGEST_WAIT ? retryAfter * 1000 : undefined;
  return code === 'RATE001' ? undefined : pauseBefore(attempt, PAUSE);
}
