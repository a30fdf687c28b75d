/** A workflow that was started on a socket, followed to its end. */

import { PersonaError, asObject } from '../errors.js';
import type { Message } from './connection.js';

/** What is to be started. */
export interface WorkflowStart {
  workflow_type: string;
  agent_instance_id: string;
  /** One of the caller's own. */
  project_id: string;
  parameters: Record<string, unknown>;
}

export interface WorkflowStatus {
  status: 'in_progress' | 'completed' | 'failed';
  step?: string;
  /** 0 to 1. */
  progress?: number;
  result?: unknown;
  /** Told after the start was sent again: where the workflow stood when it was last kept. */
  repeated?: boolean;
}

/** Statuses that nobody has read yet. Of more, the oldest are passed over; the last is never. */
const MOST_UNREAD = 64;
/** After a reconnect the start is sent again to ask what has become of it, after so many milliseconds each time. */
const ASK_AGAIN_MS = [1_000, 2_000, 4_000];

/** What a workflow needs of its socket. */
export interface Line {
  /** Sends the start again, which starts nothing that has started. */
  ask(): void;
  /** Nothing more is to be heard. */
  leave(): void;
}

export class Workflow implements AsyncIterable<WorkflowStatus> {
  /** The id of the start. With the same id and data, it can be sent again for a day and starts nothing twice. */
  readonly id: string;
  readonly #line: Line;
  #unread: WorkflowStatus[] = [];
  #last: WorkflowStatus | undefined;
  #failure: PersonaError | undefined;
  #over = false;
  #sent = false;
  #wake = () => {};
  #asked = 0;
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(id: string, line: Line) {
    this.id = id;
    this.#line = line;
  }

  /** Each status as it comes, up to `completed` or `failed`. Fails with what refused the start, SOCKET_CLOSED, or
   * WORKFLOW_UNFOLLOWED. To leave the loop early ends the listening and not the workflow. */
  async *[Symbol.asyncIterator](): AsyncGenerator<WorkflowStatus, void, void> {
    try {
      for (;;) {
        const status = this.#unread.shift();
        if (status) yield status;
        else if (this.#failure) throw this.#failure;
        else if (this.#over) return;
        else await new Promise<void>((resolve) => (this.#wake = resolve));
      }
    } finally {
      this.#finish();
    }
  }

  /** The last status, without those before it. */
  async result(): Promise<WorkflowStatus> {
    for await (const status of this) {
      if (isLast(status)) return status;
    }
    throw new PersonaError('WORKFLOW_UNFOLLOWED', 'Its statuses were read elsewhere', { details: { id: this.id } });
  }

  /** @internal A message under the id of the start. */
  hear(message: Message): void {
    if (message.type === 'error') return this.fail(PersonaError.ofMessage(message.error));
    if (message.type !== 'workflow_status') return;
    const status = message.data as WorkflowStatus;
    clearTimeout(this.#timer);
    this.#put(status);
    if (isLast(status)) this.#finish();
    else if (status.repeated) this.#askLater();
    else this.#asked = 0;
    this.#wake();
  }

  /** @internal It ends with an error, after what has been heard. */
  fail(failure: PersonaError): void {
    if (this.#over) return;
    this.#failure = failure;
    this.#finish();
    this.#wake();
  }

  /** @internal The start has left. */
  sent(): void {
    this.#sent = true;
  }

  /** @internal The connection is gone. */
  lost(): void {
    clearTimeout(this.#timer);
    this.#asked = 0;
  }

  /** @internal There is another connection, on which nothing is told of what was started on the former. */
  back(): void {
    if (this.#sent) this.#line.ask();
  }

  #put(status: WorkflowStatus): void {
    const same = status.repeated && JSON.stringify({ ...this.#last, repeated: true }) === JSON.stringify(status);
    this.#last = status;
    if (same) return;
    this.#unread.push(status);
    if (this.#unread.length > MOST_UNREAD) this.#unread.shift();
  }

  /** What runs reports to the connection that started it alone. What is kept of it may still change for a moment. */
  #askLater(): void {
    const wait = ASK_AGAIN_MS[this.#asked];
    this.#asked += 1;
    if (wait !== undefined) {
      this.#timer = setTimeout(() => this.#line.ask(), wait);
      return;
    }
    const details = { id: this.id, last: asObject(this.#last) };
    const message = 'The workflow had begun when the connection broke; how it goes on is not told';
    this.fail(new PersonaError('WORKFLOW_UNFOLLOWED', message, { details }));
  }

  #finish(): void {
    if (this.#over) return;
    this.#over = true;
    clearTimeout(this.#timer);
    this.#line.leave();
  }
}

function isLast({ status }: WorkflowStatus): boolean {
  return status === 'completed' || status === 'failed';
}
