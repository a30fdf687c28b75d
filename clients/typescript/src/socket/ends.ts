/** What the end of a connection asks of us, by its close code; docs/asyncapi.yaml has the table. */

export type Reaction =
  /** Come back, after a while. */
  | 'reconnect'
  /** Get another token, then come back. */
  | 'renew'
  /** The session has ended. */
  | 'signed out'
  /** A fault of ours: coming back would only repeat it. */
  | 'stop';

/** Sent by us when nothing is heard any more; the platform's code for the same. */
export const HEARTBEAT_LOST = 4408;

const OTHER_THAN_RECONNECT = new Map<number, Reaction>([
  [1002, 'stop'],
  [1003, 'stop'],
  [1007, 'stop'],
  [1008, 'stop'],
  [1009, 'stop'],
  [4401, 'renew'],
  [4403, 'signed out'],
  [4429, 'stop'],
]);

/** Codes that are not known come from something in between, as 1006 does. */
export function reactionTo(closeCode: number): Reaction {
  return OTHER_THAN_RECONNECT.get(closeCode) ?? 'reconnect';
}
