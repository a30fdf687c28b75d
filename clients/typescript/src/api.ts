/** The routes of the platform, typed from its OpenAPI document. What fails throws, so that what comes back is the
 * answer alone. */

import createFetchClient, { type FetchResponse, type MaybeOptionalInit } from 'openapi-fetch';
import type { HttpMethod, MediaType, PathsWithMethod, RequiredKeysOf } from 'openapi-typescript-helpers';
import type { paths } from './generated/api.js';

/** What is answered when nothing fails. */
type Answer<Operation extends Record<string | number, any>, Init> =
  FetchResponse<Operation, Init, MediaType> extends infer Either
    ? Either extends { data: infer Data }
      ? Data
      : never
    : never;

type Arguments<Init> = RequiredKeysOf<Init> extends never ? [init?: Init] : [init: Init];

type Call<Method extends HttpMethod> = <
  Path extends PathsWithMethod<paths, Method>,
  Init extends MaybeOptionalInit<paths[Path], Method & keyof paths[Path]>,
>(
  path: Path,
  ...init: Arguments<Init>
) => Promise<Answer<paths[Path][Method & keyof paths[Path]] & {}, Init>>;

/** One function for each method: `await api.GET('/api/v1/projects')`. Fails with a `PersonaError`. */
export interface Api {
  GET: Call<'get'>;
  POST: Call<'post'>;
  PUT: Call<'put'>;
  PATCH: Call<'patch'>;
  DELETE: Call<'delete'>;
}

const METHODS = ['GET', 'POST', 'PUT', 'PATCH', 'DELETE'] as const;

export function createApi(baseUrl: string, send: (request: Request) => Promise<Response>): Api {
  const client = createFetchClient<paths>({ baseUrl, fetch: send });
  const call = (method: (typeof METHODS)[number]) => async (path: never, init?: never) =>
    (await (client[method] as (path: never, init?: never) => Promise<{ data?: unknown }>)(path, init)).data;
  return Object.fromEntries(METHODS.map((method) => [method, call(method)])) as unknown as Api;
}
