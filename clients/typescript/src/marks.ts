/** How far the session of all tabs has come. No secret: a number. IndexedDB, because a transaction that is complete in
 * one tab is seen by all others; messages and `localStorage` arrive whenever they do. */

export interface Mark {
  /** The generation of the newest tokens that any tab got. */
  generation: number;
  /** Whether they have not been signed out. */
  live: boolean;
}

const STORE = 'marks';

export class Marks {
  readonly #key: string;
  #database: Promise<IDBDatabase | undefined> | undefined;
  /** Where the browser keeps nothing for this page, as in some private windows, tabs have only what they are told. */
  #ours: Mark = { generation: 0, live: false };

  constructor(key: string) {
    this.#key = key;
  }

  async read(): Promise<Mark> {
    const store = await this.#store('readonly');
    if (!store) return this.#ours;
    const kept = (await done(store.get(this.#key))) as Mark | undefined;
    return kept ?? { generation: 0, live: false };
  }

  async write(mark: Mark): Promise<void> {
    const store = await this.#store('readwrite');
    this.#ours = mark;
    if (!store) return;
    const committed = new Promise<void>((resolve, reject) => {
      store.transaction.oncomplete = () => resolve();
      store.transaction.onabort = () => reject(store.transaction.error);
    });
    store.put(mark, this.#key);
    await committed;
  }

  async close(): Promise<void> {
    (await this.#database)?.close();
  }

  async #store(mode: IDBTransactionMode): Promise<IDBObjectStore | undefined> {
    this.#database ??= open();
    const database = await this.#database;
    try {
      return database?.transaction(STORE, mode).objectStore(STORE);
    } catch {
      // The browser has closed it, as it may do at any time.
      this.#database = open();
      return (await this.#database)?.transaction(STORE, mode).objectStore(STORE);
    }
  }
}

async function open(): Promise<IDBDatabase | undefined> {
  try {
    const request = indexedDB.open('persona-platform', 1);
    request.onupgradeneeded = () => request.result.createObjectStore(STORE);
    return await done(request);
  } catch {
    return undefined;
  }
}

function done<T>(request: IDBRequest<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}
