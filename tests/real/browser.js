// A browser without a screen: cookies, redirects and forms, and nothing more.

const REDIRECTS_MAX = 20;
const REQUEST_MS = 10_000;

/** One person's browser. Two of them share nothing, like two devices. */
export class Browser {
  // By origin: here a port stands for a host, and hosts do not share cookies.
  #jars = new Map();

  /** One request, with the redirect answered and not followed. */
  async get(url) {
    return this.#request(new URL(url), { method: 'GET' });
  }

  /** Opens a page as a person would: follows every redirect. */
  async open(url) {
    return this.#follow(await this.get(url));
  }

  /** Fills the page's only form with `answers`, submits it, and follows every redirect. */
  async submit(page, answers) {
    const action = /<form[^>]*action="([^"]*)"/.exec(page.body)?.[1];
    if (action === undefined) throw new Error(`no form at ${page.url}: ${page.status} ${page.body.slice(0, 300)}`);
    const fields = new URLSearchParams();
    for (const [field, kind] of page.body.matchAll(/<(input|button)[^>]*>/g)) {
      const name = attribute(field, 'name');
      const answer = answers[name] ?? attribute(field, 'value');
      // A button says something only when it is the one that was pressed.
      if (name === undefined || (kind === 'button' && answers[name] === undefined)) continue;
      if (answer === undefined) throw new Error(`nothing to answer to the field ${name} at ${page.url}`);
      fields.set(name, answer);
    }
    return this.#follow(await this.#request(new URL(action, page.url), { method: 'POST', body: fields }));
  }

  async #follow(page) {
    for (let redirects = 0; page.location !== undefined; redirects += 1) {
      if (redirects === REDIRECTS_MAX) throw new Error(`more than ${REDIRECTS_MAX} redirects, last to ${page.location}`);
      page = await this.get(page.location);
    }
    return page;
  }

  async #request(url, init) {
    const jar = this.#jar(url.origin);
    const cookie = [...jar].map(([name, value]) => `${name}=${value}`).join('; ');
    const response = await fetch(url, {
      ...init,
      redirect: 'manual',
      signal: AbortSignal.timeout(REQUEST_MS),
      headers: { accept: 'text/html', ...(cookie && { cookie }) },
    });
    for (const line of response.headers.getSetCookie()) keep(jar, line);
    const location = response.headers.get('location');
    return {
      url,
      status: response.status,
      location: location === null ? undefined : new URL(location, url),
      body: await response.text(),
    };
  }

  #jar(origin) {
    if (!this.#jars.has(origin)) this.#jars.set(origin, new Map());
    return this.#jars.get(origin);
  }
}

function attribute(tag, name) {
  return new RegExp(`\\s${name}="([^"]*)"`).exec(tag)?.[1];
}

function keep(jar, line) {
  const [pair, ...attributes] = line.split(';').map((part) => part.trim());
  const name = pair.slice(0, pair.indexOf('='));
  const value = pair.slice(name.length + 1);
  const expires = attributes.find((text) => /^expires=/i.test(text))?.slice('expires='.length);
  if (value === '' || (expires !== undefined && Date.parse(expires) <= Date.now())) jar.delete(name);
  else jar.set(name, value);
}
