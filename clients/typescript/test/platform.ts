/** Processes of the platform for the tests: edges and services of their own, beside those that `cargo xtask up` runs, whose
 * facts stand in `target/up.env`, and what each was told in the folder `target/up`. */

import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { WebSocket as WebSocketOfWs } from 'ws';
import { type ClientOptions, type PersonaClient, createClient } from '../src/index.js';

const ROOT = new URL('../../../../', import.meta.url);
const UP_ENV = process.env['PERSONA_UP_ENV'] ?? new URL('target/up.env', ROOT).pathname;
const FACTS = readSettings(UP_ENV);
const PROGRAMS = process.env['PERSONA_BIN_DIR'] ?? new URL('target/debug', ROOT).pathname;
const READY_MS = 20_000;
/** Node has its own since version 22. */
export const WebSocket = (globalThis.WebSocket ?? WebSocketOfWs) as unknown as typeof globalThis.WebSocket;
export const PASSWORD = 'correct horse battery staple';

type Settings = Record<string, string>;

function readSettings(file: string): Settings {
  let text: string;
  try {
    text = readFileSync(file, 'utf8');
  } catch {
    throw new Error(`${file} is missing: start the platform with \`cargo xtask up\`, or run \`cargo xtask client\``);
  }
  return Object.fromEntries(text.split('\n').filter(Boolean).map((line) => line.split(/=(.*)/s).slice(0, 2)));
}

export function fact(name: string): string {
  const value = FACTS[name];
  if (value === undefined) throw new Error(`target/up.env has no ${name}`);
  return value;
}

/** Nothing outlives the tests, also when they hang and are told to end. */
const started = new Set<ChildProcess>();
process.on('exit', () => started.forEach((one) => one.kill('SIGKILL')));
process.once('SIGTERM', () => process.exit(1));

/** A process that a test may stop, kill and start again in the same place. */
export class Unit {
  readonly url: string;
  readonly internal: string;
  readonly #program: string;
  readonly #settings: Settings;
  #process: ChildProcess | undefined;

  constructor(program: string, port: number, internalPort: number, settings: Settings) {
    this.url = `http://127.0.0.1:${port}`;
    this.internal = `http://127.0.0.1:${internalPort}`;
    this.#program = program;
    this.#settings = settings;
  }

  async start(): Promise<this> {
    const env = { PATH: process.env['PATH'] ?? '', LOG_LEVEL: 'warn', LOG_FORMAT: 'text', ...this.#settings };
    this.#process = spawn(`${PROGRAMS}/${this.#program}`, { env, stdio: ['ignore', 'ignore', 'inherit'] });
    started.add(this.#process);
    const since = Date.now();
    while (!(await answers(`${this.internal}/readyz`))) {
      if (this.#process.exitCode !== null) throw new Error(`${this.#program} ended with ${this.#process.exitCode}`);
      if (Date.now() - since > READY_MS) throw new Error(`${this.#program} was not ready in time`);
      await sleep(25);
    }
    return this;
  }

  async stop(signal: NodeJS.Signals = 'SIGTERM'): Promise<void> {
    const process = this.#process;
    if (!process || process.exitCode !== null || process.signalCode !== null) return;
    const exit = once(process, 'exit');
    process.kill(signal);
    await exit;
  }

  /** How many requests of a route it has answered, by its metrics. */
  async answered(method: string, route: string): Promise<number> {
    const text = await (await fetch(`${this.internal}/internal/metrics`)).text();
    const lines = text.split('\n').filter((line) => line.startsWith('edge_requests_total{'));
    const ours = lines.filter((line) => line.includes(`method="${method}"`) && line.includes(`route="${route}"`));
    return ours.reduce((sum, line) => sum + Number(line.split(' ').at(-1)), 0);
  }
}

/** An edge of the test's own. */
export async function startEdge(settings: Settings = {}): Promise<Unit> {
  const [port, internalPort] = await freePorts();
  return new Unit('edge', port, internalPort, {
    EDGE_LISTEN: `127.0.0.1:${port}`,
    EDGE_INTERNAL_LISTEN: `127.0.0.1:${internalPort}`,
    IDENTITY_URL: `http://${fact('IDENTITY_GRPC')}`,
    SUBSCRIPTION_URL: `http://${fact('SUBSCRIPTION_GRPC')}`,
    CORE_MANAGER_URL: fact('CORE_MANAGER_URL'),
    JWT_SECRET_KEY: fact('JWT_SECRET_KEY'),
    INTERNAL_GRPC_TOKEN: fact('INTERNAL_GRPC_TOKEN'),
    RATE_LIMITS: 'off',
    ...settings,
  }).start();
}

/** A further identity-svc on the same database, whose access tokens live so many seconds; its `url` is for edges. */
export async function startIdentity(seconds: number): Promise<Unit> {
  const [port, internalPort] = await freePorts();
  const told = Object.entries(readSettings(join(dirname(UP_ENV), 'up', 'identity-svc.env')));
  return new Unit('identity-svc', port, internalPort, {
    IDENTITY_LISTEN: `127.0.0.1:${port}`,
    IDENTITY_INTERNAL_LISTEN: `127.0.0.1:${internalPort}`,
    JWT_SECRET_KEY: fact('JWT_SECRET_KEY'),
    INTERNAL_GRPC_TOKEN: fact('INTERNAL_GRPC_TOKEN'),
    ACCESS_TOKEN_TTL_SECONDS: String(seconds),
    REGISTRATIONS_PER_ADDRESS: '0',
    LOG_LEVEL: 'error',
    ...Object.fromEntries(told.filter(([name]) => name.startsWith('AUTH_DB_'))),
  }).start();
}

export function client(edge: { url: string }, options: Partial<ClientOptions> = {}): PersonaClient {
  return createClient({ baseUrl: edge.url, WebSocket, backOff: { first: 100, most: 500 }, ...options });
}

let accounts = 0;

export function newAccount(): { email: string; password: string; client_id: string } {
  accounts += 1;
  const email = `client-${process.pid}-${Date.now()}-${accounts}@example.com`;
  return { email, password: PASSWORD, client_id: 'web' };
}

/** A client with a new account that is signed in. */
export async function signedIn(edge: { url: string }, options: Partial<ClientOptions> = {}): Promise<PersonaClient> {
  const one = client(edge, options);
  await one.session.register(newAccount());
  return one;
}

/** What a workflow of the stand-in for core-manager needs, in a project of the caller's. */
export async function workflowOf(one: PersonaClient, parameters: Record<string, unknown> = {}) {
  const { id } = await one.api.POST('/api/v1/projects', { body: { name: 'Moon' } });
  return { workflow_type: 'demo', agent_instance_id: 'guide', project_id: id, parameters };
}

/** The next event of this name. */
export function next<T>(emitter: { on(name: never, listener: (event: T) => void): () => void }, name: string): Promise<T> {
  return new Promise((resolve) => {
    const off = emitter.on(name as never, (event) => {
      off();
      resolve(event);
    });
  });
}

async function answers(url: string): Promise<boolean> {
  try {
    return (await fetch(url)).ok;
  } catch {
    return false;
  }
}

async function freePorts(): Promise<[number, number]> {
  const servers = [createServer(), createServer()];
  const ports = await Promise.all(
    servers.map(async (server) => {
      await once(server.listen(0, '127.0.0.1'), 'listening');
      return (server.address() as { port: number }).port;
    }),
  );
  await Promise.all(servers.map((server) => once(server.close(), 'close')));
  return ports as [number, number];
}
