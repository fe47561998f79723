// SPDX-License-Identifier: MIT
// What was recorded, in the large view: the strip of time, its buttons and keys, and the picture of that time in
// place of the live one. Moments are Unix ms by the service's clock.

import { describe, onPress, put, say } from "./buttons.js";
import { Clips } from "./clips.js";
import { Film } from "./film.js";
import { Happenings, inWords, isNews } from "./happenings.js";
import { key } from "./keys.js";
import * as moments from "./moments.js";
import { News } from "./news.js";
import { canPlay } from "./player.js";
import { Preview } from "./preview.js";
import { Recordings } from "./recordings.js";
import { Slides } from "./slides.js";
import { Strip } from "./strip.js";
import * as words from "./words.js";

const TICK = 250; // ms
const REFRESH = 5000; // ms between looks at what has been recorded since,
const NEWS = 100; // after something happened,
const MORE = 1000; // and between looks while more happens
const JUMP = 10_000; // ms, of an arrow key
const LEAD = 3000; // ms that an event, or a gap, is shown before it begins
const LIVE = 2000; // ms behind now from which on it is live again
const FRESH = 20_000; // ms: what ends so recently goes on
const LATEST = 30_000; // ms before the end, where playing begins by itself
const CLIP = 30_000; // ms of a clip to begin with
const TYPING = 700; // ms after the last digit of a time
const STAYS = 15_000; // ms that what is said can be read
const SLOW = 600; // ms of waiting, after which it is said
const FRAME = 40; // ms, where it is not known better
const SEEN = 40; // px: a gap that is narrower on the strip is looked at more closely
const CHATTER = 10_000; // ms between times that are read out while it plays
const PICTURES = 150; // of a strip, to point at: as many as there may be kept

export class Playback {
  #clock;
  #below;
  #parts;
  #section;
  #strip;
  #preview;
  #clips;
  #happenings;
  #news;
  #tile = null;
  #all = null; // Recordings that the strip shows
  #playing = null; // those that are played: of other times, perhaps
  #film = null; // Film or Slides; null: it is live
  #speed = 1;
  #forget = 0; // the timer of what is said
  #said = ""; // of news
  #serial = 0; // of what was asked for last
  #refreshed = 0; // performance.now()
  #heard = 0; // performance.now() of the last news
  #renewal = 0; // the timer of a look for these
  #followed = false; // what is shown was in view
  #typed = 0; // the timer of a time that is being typed
  #waiting = 0; // performance.now() since when there is nothing to show
  #reached = null; // {at, shown}: the event that was gone to last, and what was shown for it
  #spoken = -Infinity; // performance.now() of the time that was read out last

  // `below`: where the strip is to be. `knows(name)`: is that a camera?
  constructor(clock, below, knows) {
    this.#clock = clock;
    this.#below = below;
    const content = document.getElementById("playback-template").content.cloneNode(true);
    this.#parts = Object.fromEntries([...content.querySelectorAll("[data-part]")].map((one) => [one.dataset.part, one]));
    this.#section = content.querySelector("section");
    const parts = this.#parts;
    this.#strip = new Strip(parts.strip, {
      sought: (at) => this.#go(at),
      pointed: (at, x) => this.#point(at, x),
      left: () => this.#preview.hide(),
      viewed: () => {
        this.#followed = this.#strip.has(this.#here);
        this.#look();
      },
      marked: (from, to) => this.#clips.set(from, to),
    });
    this.#preview = new Preview(parts.preview);
    this.#happenings = new Happenings((one) => {
      parts.strip.focus();
      this.#goEvent(one);
    });
    this.#news = new News((event) => this.#happened(event), knows);
    this.#clips = new Clips(parts, {
      here: () => this.#here,
      marked: (range) => {
        this.#strip.range = range;
        this.#strip.draw();
      },
      told: (text) => this.#tell(text),
    });
    this.#wire();
    this.#keys();
    setInterval(() => document.hidden || this.#tick(), TICK);
  }

  // The camera that is large; null: there is none.
  follow(tile) {
    if (tile !== this.#tile) this.#change(tile);
    this.#news.follow(tile?.name ?? null);
    if (!tile) return;
    const { none, there, gapPair } = this.#parts;
    const { recording, stored } = tile.report;
    const some = Boolean(stored) || this.#all.oldest !== null;
    there.hidden = !some;
    none.hidden = some;
    if (!some) none.textContent = nothing(recording);
    gapPair.hidden = Boolean(recording?.events); // of what is recorded now and then, gaps say nothing
    if (performance.now() - this.#refreshed > REFRESH) this.#refresh();
  }

  #change(tile) {
    const at = this.#film ? this.#film.time : NaN; // which is looked at in the next camera, too
    const plays = this.#film && !this.#film.paused;
    this.#live();
    this.#clips.close();
    for (const part of [this.#section, this.#parts.past, this.#parts.over]) part.remove();
    this.#tile = tile;
    this.#all = null; // what is asked for of the camera before is no news any more
    if (!tile) return;
    const { name } = tile;
    this.#all = new Recordings(name);
    this.#playing = new Recordings(name);
    this.#preview.of(name);
    this.#tell("");
    tile.element.querySelector(".picture").append(this.#parts.past);
    tile.element.querySelector(".screen").append(this.#parts.over);
    this.#below.append(this.#section);
    this.#strip.now = this.#clock.now();
    this.#strip.oldest = this.#oldest;
    this.#strip.show(this.#all);
    if (Number.isNaN(at)) this.#strip.day(this.#strip.now);
    this.#show();
    this.#refresh();
    if (!Number.isNaN(at) && tile.report.stored) this.#go(at, { play: plays });
  }

  // ------------------------------------------------------------------------------------- what there is

  async #refresh() {
    this.#refreshed = performance.now();
    if (!this.#tile?.report.stored) return; // the service says when there is something
    const all = this.#all;
    try {
      if (!all.asked) await all.ensure(this.#strip.from, this.#strip.to);
      else await all.refresh();
    } catch {
      return; // the page says itself that there is no service
    }
    if (all === this.#all) this.#got();
  }

  // What was told, or null: look at once, and once more when it is sure to have been noted.
  #happened(event) {
    this.#heard = performance.now();
    this.#renewal ||= setTimeout(() => this.#renew(), NEWS);
    const { told } = this.#parts;
    if (!event || this.#film || !isNews(event) || (told.textContent && told.textContent !== this.#said)) return;
    this.#said = `${moments.time(event.time_ns / 1e6)} ${inWords(event)}`;
    this.#tell(this.#said);
  }

  async #renew() {
    const begun = performance.now();
    await this.#refresh();
    this.#renewal = begun - this.#heard < MORE ? setTimeout(() => this.#renew(), MORE) : 0;
  }

  get #oldest() {
    const { stored } = this.#tile.report;
    return this.#all.oldest ?? (stored ? stored.oldest_ns / 1e6 : null);
  }

  // Other times are in view.
  async #look() {
    if (!this.#tile?.report.stored) return;
    const all = this.#all;
    const { from, to } = this.#strip;
    try {
      await all.ensure(from, to);
    } catch (error) {
      this.#tell(words.sentence(`${error.message}.`));
    }
    if (all === this.#all) this.#got();
  }

  #got() {
    this.#strip.oldest = this.#oldest;
    this.#strip.draw();
    this.#show();
    if (this.#tile) this.follow(this.#tile);
  }

  // --------------------------------------------------------------------------------- what is shown

  // Show that moment. Where nothing was recorded it is the nearest one after it, or before it (`way` -1). `play`: go
  // on from there, or don't; by default as before.
  async #go(at, { way = 1, play = null, said = "" } = {}) {
    this.#serial += 1;
    this.#reached = null;
    const serial = this.#serial;
    const all = this.#playing;
    const now = this.#clock.now();
    this.#strip.position = at; // until it is known better
    this.#strip.live = false;
    this.#reveal(at);
    let found;
    try {
      await all.ensure(at - moments.HOUR, at + moments.HOUR);
      if (!all.at(at) && at > (all.spans.at(-1)?.to ?? 0)) await all.refresh(); // it may be there by now
      found = await place(all, at, way);
    } catch (error) {
      if (serial === this.#serial) {
        this.#tell(words.sentence(`${error.message}.`));
        this.#show();
      }
      return;
    }
    if (serial !== this.#serial) return;
    if (!found) {
      this.#live();
      this.#tell("Nothing is recorded of this camera then.");
    } else if (way > 0 && found.late && now - at < FRESH) {
      this.#live();
      this.#tell("Live: later than this there is nothing yet.");
    } else {
      this.#open(found.span, found.at, found.late ? false : play);
      this.#tell(said || found.said);
    }
  }

  #open(span, at, play) {
    const plays = play ?? (this.#film ? !this.#film.paused : true);
    const film = span.codec && canPlay(span.codec.split(",")[0]);
    if (this.#film && !film === this.#film instanceof Film) this.#close();
    if (!this.#film) this.#make(film);
    this.#film.seek(at);
    if (plays) this.#film.play();
    else this.#film.pause();
    this.#spoken = -Infinity;
    this.#followed = true;
    this.#reveal(at);
    this.#show();
  }

  // Video, or single pictures where the browser does not play it.
  #make(film) {
    const events = {
      jumped: (from, to) => this.#tell(`Nothing was recorded from ${moments.time(from)} to ${moments.time(to)}.`),
      ended: () => this.#ended(),
      failed: (text) => this.#failed(text),
    };
    const { past, over, film: video, slide } = this.#parts;
    this.#film = film ? new Film(video, this.#playing, events) : new Slides(slide, this.#playing, events);
    this.#film.rate = this.#speed;
    video.hidden = !film;
    slide.hidden = film;
    past.hidden = over.hidden = false;
    this.#tile.instead({ picture: () => this.#picture() });
  }

  #failed(text) {
    const at = this.#film.time;
    this.#close();
    this.#make(false);
    this.#film.seek(at);
    this.#tell(words.sentence(`${text}: single pictures are shown.`));
  }

  #ended() {
    if (this.#clock.now() - this.#film.time < FRESH) {
      this.#live();
      this.#tell("Live: all that was recorded has been shown.");
    } else if (!this.#film.paused) {
      this.#film.pause();
      this.#tell("Nothing is recorded after this.");
    }
  }

  #close() {
    this.#film?.close();
    this.#film = null;
    this.#waiting = 0;
    this.#parts.past.hidden = this.#parts.over.hidden = true;
    this.#tile?.instead(null);
  }

  #live() {
    this.#serial += 1;
    this.#close();
    this.#spoken = -Infinity;
    this.#show();
  }

  // Of what is shown, as a JPEG.
  async #picture() {
    const { film, slide } = this.#parts;
    const image = film.hidden ? slide : film;
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = film.hidden ? [image.naturalWidth, image.naturalHeight] : [image.videoWidth, image.videoHeight];
    if (!canvas.width) throw new Error("there is no picture yet");
    canvas.getContext("2d").drawImage(image, 0, 0);
    const at = this.#film.time;
    return { at, blob: await new Promise((done) => canvas.toBlob(done, "image/jpeg", 0.92)) };
  }

  // The moment that is shown.
  get #here() {
    return this.#film ? this.#film.time : this.#clock.now();
  }

  // From where a search, or a step, begins: where one looks.
  #origin(way) {
    if (this.#film && this.#strip.has(this.#film.time)) return this.#film.time;
    if (!this.#film && this.#strip.has(this.#clock.now())) return this.#clock.now();
    return way > 0 ? this.#strip.from : this.#strip.to;
  }

  #by(ms) {
    if (!this.#film && ms > 0 && this.#strip.has(this.#clock.now())) return; // there is nothing after now
    this.#go(Math.max(0, this.#origin(ms) + ms), { way: ms < 0 ? -1 : 1 });
  }

  #toggle() {
    const film = this.#film;
    if (!film) this.#latest();
    else if (film.paused) film.play();
    else film.pause();
    this.#spoken = -Infinity;
    this.#show();
  }

  // The end of what there is.
  async #latest() {
    const all = this.#playing;
    const now = this.#clock.now();
    try {
      await all.ensure(now - moments.HOUR, now);
      await all.refresh();
      const last = await all.find((one) => one.spans, (span) => span.from, now, -1);
      if (last) await this.#go(Math.max(last.from, last.to - LATEST));
    } catch (error) {
      this.#tell(words.sentence(`${error.message}.`));
    }
  }

  #step(by) {
    const film = this.#film;
    if (!film) return;
    if (film.paused) {
      if (!film.step(by)) this.#go(film.time + by * FRAME, { way: by, play: false });
    } else film.pause();
    this.#spoken = -Infinity;
    this.#show();
  }

  #faster(by) {
    const { speed } = this.#parts;
    speed.selectedIndex = Math.max(0, Math.min(speed.length - 1, speed.selectedIndex + by));
    speed.onchange();
    this.#tell(`Speed ${speed.selectedOptions[0].textContent}`);
  }

  async #event(way) {
    const from = this.#origin(way);
    // Where nothing was recorded then, what is shown for it is far away.
    const reached = this.#reached && from - this.#reached.shown < LEAD ? this.#reached.at : null;
    const beyond = way > 0 ? (reached ?? from + LEAD + 500) : Math.min(from + LEAD - 1500, reached ?? Infinity);
    await this.#search((all) => all.events, ({ at }) => at, beyond, way, "event", (one) => this.#goEvent(one));
  }

  async #goEvent(one) {
    const { at } = one;
    await this.#playing.ensure(at - moments.HOUR, at + moments.HOUR).catch(() => {}); // #go() says so
    const { from: begin = 0 } = this.#playing.at(at) ?? {};
    const gone = this.#go(Math.max(begin, at - LEAD), { said: `${moments.time(at)} ${inWords(one)}` });
    const serial = this.#serial;
    await gone;
    if (serial === this.#serial) this.#reached = { at, shown: this.#here };
  }

  // Those of the day in view.
  async #list() {
    const all = this.#all;
    const { from, to } = moments.day((this.#strip.from + this.#strip.to) / 2);
    try {
      await all.ensure(from, to);
      await all.refresh(); // there may be more by now
    } catch (error) {
      this.#tell(words.sentence(`${error.message}.`));
      return;
    }
    if (all !== this.#all) return;
    this.#happenings.show(`Events of ${moments.date(from)}`, all.events.filter(({ at }) => from <= at && at < to));
  }

  async #gap(way) {
    const from = this.#origin(way);
    const beyond = way > 0 ? from + LEAD + 500 : from + LEAD - 500;
    await this.#search((all) => all.gaps, (gap) => gap.from, beyond, way, "gap", (gap) => {
      const { from: begin = 0 } = this.#playing.before(gap.from + 1) ?? {};
      const said = `Nothing was recorded from ${both(gap.from)} to ${sameDay(gap.from, gap.to) ? moments.time(gap.to) : both(gap.to)}.`;
      this.#go(Math.max(begin, gap.from - LEAD), { play: false, said });
      const length = gap.to - gap.from;
      const around = 2 * Math.max(length, moments.MINUTE);
      if (length / this.#strip.grain < SEEN) this.#strip.view(gap.from - around, gap.to + around);
    });
  }

  async #search(list, moment, at, way, what, act) {
    this.#serial += 1;
    const serial = this.#serial;
    try {
      const found = await this.#playing.find(list, moment, at, way);
      if (serial !== this.#serial) return;
      if (found === undefined) this.#tell(`There is no ${what} ${way > 0 ? "after" : "before"} this.`);
      else act(found);
    } catch (error) {
      this.#tell(words.sentence(`${error.message}.`));
    }
  }

  // ------------------------------------------------------------------------------------- what is in view

  // Have it in view.
  #reveal(at) {
    const strip = this.#strip;
    if (strip.has(at)) return;
    const length = strip.to - strip.from;
    if (length >= 23 * moments.HOUR) strip.day(at);
    else strip.view(at - length / 5, at + (4 * length) / 5);
  }

  async #day(by, to = null) {
    const strip = this.#strip;
    const at = to ?? moments.day((strip.from + strip.to) / 2, by).from;
    strip.day(at);
    const all = this.#all;
    const { from, to: end } = strip;
    try {
      await all.ensure(from, end);
    } catch {
      return; // #look() says so
    }
    if (from !== strip.from || all !== this.#all) return;
    const spans = all.spans.filter((span) => span.to > from && span.from < end);
    const gaps = all.gaps.filter((gap) => gap.to > from && gap.from < end && (gap.from > from || gap.to < end));
    const count = all.events.filter(({ at }) => from <= at && at < end).length;
    const texts = [count ? words.plural(count, "event", "events") : "", words.plural(gaps.length, "gap", "gaps")];
    this.#tell(`${moments.date(from)}: ${spans.length ? texts.filter(Boolean).join(", ") : "nothing was recorded"}.`);
  }

  #point(at, x) {
    const span = this.#all.at(at);
    const text = this.#strip.to - this.#strip.from > 12 * moments.HOUR ? moments.time(at, false) : moments.time(at);
    const step = Math.max(1000, (this.#strip.to - this.#strip.from) / PICTURES);
    const event = this.#strip.event(at);
    if (event) {
      const has = this.#all.at(event.at);
      this.#preview.show(x, `${moments.time(event.at)} ${inWords(event)}`, has ? event.at : NaN);
    } else if (span) this.#preview.show(x, text, Math.max(span.from, Math.floor(at / step) * step));
    else this.#preview.show(x, `${text}: ${at > this.#strip.now ? "not yet" : "nothing recorded"}`, NaN);
  }

  // ------------------------------------------------------------------------------------ what is said of it

  #tick() {
    if (!this.#tile) return;
    this.#strip.now = this.#clock.now();
    const at = this.#here;
    // It leaves the view by itself: the view goes with it. Who looks elsewhere is left alone.
    if (this.#followed && !this.#strip.has(at) && !this.#strip.dragged) this.#reveal(at);
    this.#followed = this.#strip.has(at);
    this.#show();
  }

  #show() {
    if (!this.#tile || !this.#all) return;
    const parts = this.#parts;
    const film = this.#film;
    const strip = this.#strip;
    const at = this.#here;
    if (!strip.dragged) {
      strip.position = at;
      strip.live = !film;
    }
    strip.draw();
    put(parts.live, "ariaPressed", String(!film));
    const plays = Boolean(film && !film.paused);
    put(parts.play.dataset, "plays", String(plays));
    put(parts.play, "ariaLabel", plays ? "Pause" : film ? "Play" : "Play the last recording");
    put(parts.play, "title", `${parts.play.ariaLabel} (Space)`);
    const live = film ? "" : "This is the live picture: go back in time first";
    describe(parts.stepBack, "One frame back", "One frame back (,)", live);
    describe(parts.stepOn, "One frame on", "One frame on (.)", live);
    describe(parts.on, "10 seconds on", "10 seconds on (→)", live);
    if (document.activeElement !== parts.date) put(parts.date, "value", moments.dateValue(strip.has(at) ? at : (strip.from + strip.to) / 2));
    if (document.activeElement !== parts.time) put(parts.time, "value", moments.timeValue(at));
    const oldest = this.#oldest;
    put(parts.date, "max", moments.dateValue(strip.now));
    if (oldest !== null) put(parts.date, "min", moments.dateValue(oldest));
    describe(parts.dayBefore, "The day before", "The day before", oldest === null || strip.from <= oldest ? "Nothing was recorded before this day" : "");
    describe(parts.dayAfter, "The day after", "The day after", strip.to >= moments.day(strip.now).to ? "This is the last day" : "");
    const two = film instanceof Film && (this.#playing.at(at)?.codec ?? "").includes(",");
    parts.hear.hidden = !two;
    put(parts.hear, "ariaPressed", String(Boolean(film?.sound)));
    this.#showPast(film, at);
    this.#speak(at, plays);
  }

  #showPast(film, at) {
    const { when, trouble } = this.#parts;
    if (!film) return;
    say(when, `Recorded ${both(at)}${this.#speed === 1 ? "" : ` · ${this.#parts.speed.selectedOptions[0].textContent}`}`);
    this.#waiting = film.waiting ? this.#waiting || performance.now() : 0;
    const slow = this.#waiting && performance.now() - this.#waiting > SLOW;
    const text = film.trouble ? `${words.sentence(film.trouble)}. Trying again …` : slow ? "Loading …" : "";
    say(trouble, text);
    trouble.hidden = !text;
  }

  #speak(at, plays) {
    const { strip } = this.#parts;
    const [min, max] = [this.#strip.from, this.#strip.to].map((one) => Math.round(one / 1000));
    const now = performance.now();
    put(strip, "ariaValueMin", String(min));
    put(strip, "ariaValueMax", String(max));
    if ((plays || !this.#film) && now - this.#spoken < CHATTER) return;
    this.#spoken = now;
    put(strip, "ariaValueNow", String(Math.max(min, Math.min(max, Math.round(at / 1000)))));
    put(strip, "ariaValueText", this.#film ? both(at) : `Live, ${both(at)}`);
  }

  #tell(text) {
    say(this.#parts.told, text);
    clearTimeout(this.#forget);
    this.#forget = setTimeout(() => say(this.#parts.told, ""), STAYS);
  }

  // ------------------------------------------------------------------------------------- buttons and keys

  #wire() {
    const parts = this.#parts;
    const acts = {
      back: () => this.#by(-JUMP),
      on: () => this.#by(JUMP),
      stepBack: () => this.#step(-1),
      stepOn: () => this.#step(1),
      play: () => this.#toggle(),
      live: () => this.#goLive(),
      hear: () => this.#hear(),
      dayBefore: () => this.#day(-1),
      dayAfter: () => this.#day(1),
      eventBefore: () => this.#event(-1),
      eventAfter: () => this.#event(1),
      openEvents: () => this.#list(),
      gapBefore: () => this.#gap(-1),
      gapAfter: () => this.#gap(1),
      farther: () => this.#strip.zoom(1 / 2),
      nearer: () => this.#strip.zoom(2),
      openClip: () => (this.#clips.open ? this.#clips.close() : this.#openClip()),
    };
    for (const [name, act] of Object.entries(acts)) onPress(parts[name], act);
    parts.speed.onchange = () => {
      this.#speed = Number(parts.speed.value);
      if (this.#film) this.#film.rate = this.#speed;
      this.#show();
    };
    this.#typing(parts.date, () => {
      const at = moments.moment(parts.date.value, "12:00");
      if (!Number.isNaN(at)) this.#day(0, at);
    });
    this.#typing(parts.time, () => {
      const at = moments.moment(parts.date.value, parts.time.value);
      if (!Number.isNaN(at)) this.#go(at);
    });
  }

  // Do it once all of a value has been typed: a browser tells of each digit.
  #typing(input, act) {
    const done = () => {
      clearTimeout(this.#typed);
      act();
    };
    input.onchange = () => {
      clearTimeout(this.#typed);
      this.#typed = setTimeout(done, TYPING);
    };
    input.onkeydown = (event) => {
      if (event.key === "Enter") done();
    };
  }

  #goLive() {
    this.#live();
    if (!this.#strip.has(this.#clock.now())) this.#strip.day(this.#clock.now());
    this.#tell("Live.");
  }

  #hear() {
    const film = this.#film;
    if (film instanceof Film) film.sound = !film.sound;
    this.#show();
  }

  #openClip() {
    const at = this.#here;
    const [from, to] = this.#film ? [at - CLIP / 3, at + (2 * CLIP) / 3] : [at - CLIP, at];
    this.#clips.show(this.#tile.name, from, to);
  }

  // They come before what the same keys do elsewhere on the page. Here arrows move in time while a recording is shown, or
  // where the strip has the focus; in the live view they are for other cameras.
  #keys() {
    const when = (act, condition = () => true) => (event) => {
      if (!this.#tile || this.#parts.there.hidden || !condition(event.target)) return false;
      return act(event);
    };
    const strip = (target) => target === this.#parts.strip;
    const mine = (target) => strip(target) || this.#film !== null;
    const shown = () => this.#film !== null;
    const way = (event) => (event.shiftKey ? -1 : 1);
    const is = (name) => (event) => (event.key === name ? 1 : -1);
    const arrow = is("ArrowRight");
    const own = (names, text, act, condition) => key(names, text, when(act, condition), "Recordings");
    own(["arrowleft", "arrowright"], "10 seconds back or on, with Shift a minute", (event) => this.#by(arrow(event) * (event.shiftKey ? moments.MINUTE : JUMP)), mine);
    own(["arrowup", "arrowdown"], "", (event) => this.#by(is("ArrowUp")(event) * moments.MINUTE), strip);
    own([" "], "play, pause", () => this.#toggle(), (target) => mine(target) && !target.closest?.("button, a, summary"));
    own([",", "."], "a frame back or on", (event) => this.#step(is(".")(event)), shown);
    own(["<", ">"], "slower, faster", (event) => this.#faster(is(">")(event)), shown);
    own(["e"], "the next event, with Shift the one before", (event) => this.#event(way(event)));
    own(["v"], "the list of events", () => void this.#list());
    own(["g"], "the next gap, with Shift the one before", (event) => this.#gap(way(event)));
    own(["c"], "save a clip", () => this.#parts.openClip.click());
    own(["[", "]"], "the clip begins here, ends here", (event) => this.#mark(event.key === "[" ? "begin" : "end"));
    own(["l"], "the live picture again", () => this.#goLive(), shown);
    own(["pageup", "pagedown"], "an hour on or back (on the strip)", (event) => this.#by(is("PageUp")(event) * moments.HOUR), strip);
    own(["home", "end"], "beginning and end of the day (on the strip)", (event) => this.#edge(event.key === "Home"), strip);
    own(["+", "-"], "less or more time in view (on the strip)", (event) => this.#strip.zoom(event.key === "+" ? 2 : 1 / 2), strip);
    own(["="], "", () => this.#strip.zoom(2), strip);
    own(["m"], "", () => this.#hear(), shown);
  }

  // The first moment of the day, or the last one, that was recorded.
  #edge(first) {
    const { from, to } = moments.day((this.#strip.from + this.#strip.to) / 2);
    const said = first ? "The first recording of the day." : "The last recording of the day.";
    this.#go(first ? from : to - 1, { way: first ? 1 : -1, said });
  }

  #mark(which) {
    const at = this.#here;
    if (!this.#clips.open) this.#clips.show(this.#tile.name, ...(which === "begin" ? [at, at + CLIP] : [at - CLIP, at]));
    this.#clips[which]();
    this.#parts.strip.focus();
  }
}

// Where a moment is shown: {at, span, said, late}. `late`: it is the end, as nothing is after it. null: there is nothing.
async function place(all, at, way) {
  const span = all.at(at);
  if (span) return { at, span, said: "", late: false };
  const after = await all.find((one) => one.spans, (one) => one.from, at, 1);
  const before = await all.find((one) => one.spans, (one) => one.to, at + 1, -1);
  const found = (way > 0 ? after : before) ?? after ?? before;
  if (!found) return null;
  if (found === after) {
    return { at: found.from, span: found, said: `Nothing was recorded at ${both(at)}. It goes on at ${both(found.from)}.`, late: false };
  }
  const end = Math.max(found.from, found.to - JUMP);
  if (way > 0) return { at: Math.max(found.from, found.to - 200), span: found, said: `Nothing is recorded after ${both(found.to)}.`, late: true };
  return { at: end, span: found, said: `Nothing was recorded from ${both(found.to)} on.`, late: false };
}

function nothing(recording) {
  if (recording?.events) return "Nothing has been recorded yet: this camera is recorded when something happens.";
  if (recording) return "Nothing has been recorded yet.";
  return "There are no recordings of this camera. The round button records it from now on; record: true in the config does so always.";
}

const both = (at) => `${moments.date(at)} ${moments.time(at)}`;
const sameDay = (a, b) => moments.day(a).from === moments.day(b).from;
