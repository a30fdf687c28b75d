/** What can go wrong, in one type for requests, the socket and the client's own troubles. */

import type { components } from './generated/api.js';

/** Codes that the client itself gives; all others are the platform's (`AUTH001`, `RATE001`, …). */
export type ClientCode =
  /** The answer did not come: no connection, or it broke. The request may have had an effect. */
  | 'NETWORK'
  /** Nobody answered in time. */
  | 'TIMEOUT'
  /** The caller's `AbortSignal` said so. */
  | 'ABORTED'
  /** There is no session, or it has ended: sign in again. */
  | 'SIGNED_OUT'
  /** What is behind the gateway answered with an error of its own; `details` has its body. */
  | 'UPSTREAM'
  /** More messages wait to be sent than the socket keeps. */
  | 'QUEUE_FULL'
  /** The message is larger than the platform takes. */
  | 'TOO_LARGE'
  /** The connection broke after the message had left; it may have had an effect. */
  | 'CONNECTION_LOST'
  /** The socket was closed, by `close()` or for good by the platform: `details.closeCode` says why. */
  | 'SOCKET_CLOSED'
  /** The workflow had begun when the connection broke, and nothing more can be heard of it. */
  | 'WORKFLOW_UNFOLLOWED';

export type Code = components['schemas']['ErrorCode'] | ClientCode | (string & {});

interface Facts {
  status?: number | undefined;
  details?: Record<string, unknown> | undefined;
  requestId?: string | undefined;
  retryAfter?: number | undefined;
  cause?: unknown;
}

export class PersonaError extends Error {
  override readonly name = 'PersonaError';
  /** A code of the platform, a {@link ClientCode}, or on the socket one of core-manager. */
  readonly code: Code;
  /** The HTTP status; 0 when there was no answer. */
  readonly status: number;
  /** What belongs to the code, such as `fields` or `resource`, `limit` and `used`. */
  readonly details: Record<string, unknown>;
  /** Under this id the platform has logged the request. */
  readonly requestId: string | undefined;
  /** Seconds after which it is worth trying again, when the platform says so. */
  readonly retryAfter: number | undefined;

  constructor(code: Code, message: string, facts: Facts = {}) {
    super(message, { cause: facts.cause });
    this.code = code;
    this.status = facts.status ?? 0;
    this.details = facts.details ?? {};
    this.requestId = facts.requestId;
    this.retryAfter = facts.retryAfter;
  }

  /** The error that a response tells. */
  static async of(response: Response): Promise<PersonaError> {
    const body: unknown = await response.json().catch(() => undefined);
    const { error, request_id } = asObject(body);
    const { code, message, details } = asObject(error);
    const facts = {
      status: response.status,
      requestId: text(request_id) ?? response.headers.get('x-request-id') ?? undefined,
      retryAfter: secondsUntil(response.headers.get('retry-after')),
    };
    if (typeof code === 'string') {
      return new PersonaError(code, text(message) ?? code, { ...facts, details: asObject(details) });
    }
    return new PersonaError('UPSTREAM', `HTTP ${response.status}`, { ...facts, details: asObject(body) });
  }

  /** What a `fetch` that failed means. */
  static ofFailedFetch(cause: unknown): PersonaError {
    const name = cause instanceof Error ? cause.name : '';
    if (name === 'AbortError') return new PersonaError('ABORTED', 'The request was given up', { cause });
    if (name === 'TimeoutError') return new PersonaError('TIMEOUT', 'There was no answer in time', { cause });
    return new PersonaError('NETWORK', 'The platform could not be reached, or the connection broke', { cause });
  }

  /** The error of a socket's message. */
  static ofMessage(error: unknown): PersonaError {
    const { code, message, details } = asObject(error);
    return new PersonaError(text(code) ?? 'UPSTREAM', text(message) ?? 'refused', { details: asObject(details) });
  }
}

export function asObject(value: unknown): Record<string, unknown> {
  return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : {};
}

/** `Retry-After` in seconds: a number or a date (RFC 9110 section 10.2.3). */
function secondsUntil(header: string | null): number | undefined {
  if (header === null) return undefined;
  const seconds = /^\d+$/.test(header) ? Number(header) : (Date.parse(header) - Date.now()) / 1000;
  return Number.isNaN(seconds) ? undefined : Math.max(0, seconds);
}

function text(value: unknown): string | undefined {
  return typeof value === 'string' ? value : undefined;
}
