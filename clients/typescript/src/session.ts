/** Who is signed in: one session for all tabs of a browser, refreshed by one of them at a time. */

import { type Account, Auth, type Credentials, type Fresh, codeOf, isAway, isOver } from './auth.js';
import { PersonaError } from './errors.js';
import { Emitter } from './events.js';
import { type News, type Tabs, tabs } from './tabs.js';
import { type TokenStore, type Tokens, type UserInfo, memoryStore } from './tokens.js';

/** Tokens are replaced this long before they expire, or when a third of their life is left. */
const AHEAD_MS = 60_000;
/** How long another tab may take to hand over tokens that exist, and to say that it has any at all. */
const HANDOVER_MS = 5_000;
const GREETING_MS = 300;
/** How often the other tabs are asked meanwhile. */
const ASK_MS = 100;

export interface SessionEvents {
  /** Somebody has signed in, here or in another tab. */
  signedIn: UserInfo;
  /** There are new tokens of the same sign-in. */
  refreshed: UserInfo;
  /** The session has ended: signed out in any tab, ended elsewhere, expired, or its user was disabled. */
  signedOut: undefined;
}

export interface SessionOptions {
  /** The address of the platform. */
  baseUrl: string;
  fetch?: typeof fetch | undefined;
  store?: TokenStore | undefined;
  /** Whether all tabs of this origin have one session; true where the browser can do it. */
  shareTabs?: boolean | undefined;
  /** Tells sessions with one platform on one origin apart. */
  name?: string | undefined;
}

export class Session extends Emitter<SessionEvents> {
  readonly #auth: Auth;
  readonly #store: TokenStore;
  readonly #tabs: Tabs;
  #current: Tokens | undefined;
  /** Of what is known here, a sign-out included. */
  #generation = 0;
  #restored: Promise<void> | undefined;
  #refreshing: Promise<Tokens> | undefined;

  constructor(options: SessionOptions) {
    super();
    this.#auth = new Auth(options.baseUrl, options.fetch ?? fetch.bind(globalThis));
    this.#store = options.store ?? memoryStore();
    this.#tabs = tabs(`${options.baseUrl} ${options.name ?? ''}`, options.shareTabs);
    this.#tabs.listen((news) => void this.#hear(news));
  }

  /** Who is signed in, as of the last refresh. */
  get user(): UserInfo | undefined {
    return this.#current?.user;
  }

  /** The tokens as they are, expired ones too. */
  get tokens(): Readonly<Tokens> | undefined {
    return this.#current;
  }

  /** Finds the session of the store or of another tab. Gives who is signed in. */
  async restore(): Promise<UserInfo | undefined> {
    this.#restored ??= this.#find().catch((error: unknown) => {
      this.#restored = undefined;
      throw error;
    });
    await this.#restored;
    return this.user;
  }

  /** Makes an account and signs in. Fails with USER002, USER003, REQ001 or AUTH005. */
  register(account: Account): Promise<UserInfo> {
    return this.#signIn(() => this.#auth.register(account));
  }

  /** Fails with AUTH001 for every reason that it can, or AUTH005. */
  login(credentials: Credentials): Promise<UserInfo> {
    return this.#signIn(() => this.#auth.login(credentials));
  }

  /** An access token that is good for a while; refreshed when it is about to expire. Fails with SIGNED_OUT, or when a
   * refresh that is needed does. */
  async accessToken(): Promise<string> {
    await this.restore();
    const tokens = this.#mustBeSignedIn();
    if (Date.now() < dueAt(tokens)) return tokens.accessToken;
    try {
      return (await this.refresh()).accessToken;
    } catch (error) {
      // Nobody could be asked, but there is some life left.
      if (this.#current === tokens && isAway(error) && Date.now() < tokens.expiresAt) return tokens.accessToken;
      throw error;
    }
  }

  /** When the access token should be replaced, in milliseconds of this machine's clock. */
  get dueAt(): number | undefined {
    return this.#current && dueAt(this.#current);
  }

  /** Replaces the tokens, unless another tab does or has just done so. Fails with SIGNED_OUT when the session is over,
   * with other codes when nobody could be asked. */
  async refresh(): Promise<Tokens> {
    await this.restore();
    const spent = this.#mustBeSignedIn();
    const refreshing = (this.#refreshing ??= this.#tabs.inTurn(() => this.#replace(spent)).finally(() => {
      this.#refreshing = undefined;
    }));
    return refreshing;
  }

  /** The platform has refused this access token as expired, whatever the clock here says. */
  async renew(accessToken: string): Promise<void> {
    if (this.#current?.accessToken === accessToken) await this.refresh();
  }

  /** The platform has refused this access token for good (AUTH003): the session is over, unless there is another. */
  async refused(accessToken: string): Promise<void> {
    if (this.#current?.accessToken !== accessToken) return;
    await this.#tabs.inTurn(async () => {
      await this.#catchUp();
      if (this.#current?.accessToken === accessToken) await this.#end();
    });
  }

  /** Asks the platform whether the session is good. Fails with SIGNED_OUT, or when nobody could be asked. */
  async check(): Promise<UserInfo> {
    const accessToken = await this.accessToken();
    try {
      return await this.#auth.validate(accessToken);
    } catch (error) {
      if (codeOf(error) === 'AUTH002') return (await this.refresh()).user;
      if (codeOf(error) !== 'AUTH003') throw error;
      await this.refused(accessToken);
      return this.#mustBeSignedIn().user;
    }
  }

  /** Ends the session everywhere. When the platform cannot be told, this fails and the session goes on: try again, or
   * `forget()`. */
  async logout(): Promise<void> {
    await this.restore();
    await this.#tabs.inTurn(async () => {
      await this.#catchUp();
      if (!this.#current) return;
      try {
        await this.#tellLogout(this.#current);
      } catch (error) {
        if (!isOver(error)) throw error;
      }
      await this.#end();
    });
  }

  /** Signs out in all tabs without telling the platform. */
  async forget(): Promise<void> {
    await this.#tabs.inTurn(() => this.#end());
  }

  /** Ends this tab's part in the session, which stays open. */
  close(): void {
    this.#tabs.close();
  }

  async #signIn(call: () => Promise<Fresh>): Promise<UserInfo> {
    await this.restore();
    const fresh = await call();
    return this.#tabs.inTurn(async () => {
      const { generation } = await this.#tabs.mark();
      return (await this.#adopt({ ...fresh, generation: Math.max(generation, this.#generation) + 1 })).user;
    });
  }

  /** In turn: what comes after the spent tokens, from another tab or from the platform. */
  async #replace(spent: Tokens): Promise<Tokens> {
    await this.#catchUp();
    const current = this.#mustBeSignedIn();
    if (current.generation !== spent.generation) return current;
    try {
      return await this.#adopt(await this.#next(current));
    } catch (error) {
      if (!isOver(error)) throw error;
      await this.#end();
      throw signedOut(error);
    }
  }

  async #next(spent: Tokens): Promise<Tokens> {
    return { ...(await this.#auth.refresh(spent)), generation: spent.generation + 1 };
  }

  async #tellLogout(current: Tokens): Promise<void> {
    const fresh = Date.now() < current.expiresAt ? current : await this.#adopt(await this.#next(current));
    try {
      await this.#auth.logout(fresh.accessToken);
    } catch (error) {
      if (codeOf(error) !== 'AUTH002') throw error;
      const { accessToken } = await this.#adopt(await this.#next(fresh));
      await this.#auth.logout(accessToken);
    }
  }

  /** In turn: takes over what other tabs have come to. A tab that has missed tokens which nobody has any more is signed
   * out; its own refresh token is spent, and presenting it would end the session of whoever has the newest. */
  async #catchUp(): Promise<void> {
    const mark = await this.#tabs.mark();
    if (mark.generation <= this.#generation) return;
    if (mark.live) {
      await this.#takeStored();
      await this.#await(mark.generation, HANDOVER_MS);
    }
    if (mark.generation > this.#generation) await this.#drop(mark.generation);
  }

  async #find(): Promise<void> {
    await this.#takeStored();
    const mark = await this.#tabs.mark();
    if (mark.generation <= this.#generation) return;
    if (mark.live) await this.#await(mark.generation, GREETING_MS);
  }

  async #takeStored(): Promise<void> {
    const stored = await this.#store.load();
    if (stored && stored.generation > this.#generation) this.#take(stored);
  }

  /** Waits for another tab to tell of this generation. */
  async #await(generation: number, patience: number): Promise<void> {
    const end = Date.now() + patience;
    while (this.#generation < generation && Date.now() < end) {
      this.#tabs.tell({ kind: 'ask', generation: this.#generation });
      await this.#told(Math.min(ASK_MS, end - Date.now()));
    }
  }

  /** Woken by news. */
  #wake = () => {};

  async #told(patience: number): Promise<void> {
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, patience);
      this.#wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }

  async #hear(news: News): Promise<void> {
    switch (news.kind) {
      case 'ask':
        if (this.#generation <= news.generation) return;
        if (this.#current) this.#tabs.tell({ kind: 'tokens', tokens: this.#current });
        else this.#tabs.tell({ kind: 'ended', generation: this.#generation });
        return;
      case 'tokens':
        if (news.tokens.generation <= this.#generation) return;
        this.#take(news.tokens);
        await this.#keep(news.tokens, news.tokens.generation);
        break;
      case 'ended':
        if (news.generation <= this.#generation) return;
        await this.#drop(news.generation);
        break;
    }
    this.#wake();
  }

  /** In turn: these are the newest tokens. Kept before they are marked, marked before they are told: whoever finds the
   * mark finds the tokens. */
  async #adopt(tokens: Tokens): Promise<Tokens> {
    await this.#store.save(tokens);
    await this.#tabs.setMark({ generation: tokens.generation, live: true });
    this.#take(tokens);
    this.#tabs.tell({ kind: 'tokens', tokens });
    return tokens;
  }

  /** In turn: the session is over, in all tabs. */
  async #end(): Promise<void> {
    const { generation } = await this.#tabs.mark();
    const ended = Math.max(generation, this.#generation) + 1;
    await this.#tabs.setMark({ generation: ended, live: false });
    this.#tabs.tell({ kind: 'ended', generation: ended });
    await this.#drop(ended);
  }

  async #drop(generation: number): Promise<void> {
    const was = this.#current;
    this.#current = undefined;
    this.#generation = generation;
    await this.#keep(undefined, generation);
    if (was) this.emit('signedOut', undefined);
  }

  /** News may be late: what is newer stays in a store that tabs share. */
  async #keep(tokens: Tokens | undefined, generation: number): Promise<void> {
    const stored = await this.#store.load();
    if (stored ? stored.generation < generation : tokens) await this.#store.save(tokens);
  }

  #take(tokens: Tokens): void {
    // Another tab may have been quicker.
    if (tokens.generation <= this.#generation) return;
    const before = this.#current?.signIn;
    this.#current = tokens;
    this.#generation = tokens.generation;
    this.emit(before === tokens.signIn ? 'refreshed' : 'signedIn', tokens.user);
  }

  #mustBeSignedIn(): Tokens {
    if (!this.#current) throw signedOut();
    return this.#current;
  }
}

export function signedOut(cause?: unknown): PersonaError {
  return new PersonaError('SIGNED_OUT', 'Nobody is signed in', { cause });
}

function dueAt({ askedAt, expiresAt }: Tokens): number {
  return expiresAt - Math.min(AHEAD_MS, (expiresAt - askedAt) / 3);
}
