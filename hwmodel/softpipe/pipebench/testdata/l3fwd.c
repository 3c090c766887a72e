// The reference that softpipe is measured against: what a good C data plane does
// for plain IPv4 forwarding. Vectors of 256, stage by stage, prefetching what the
// next stage reads: parse and checks, DIR-24-8 lookup, route, next hop, rewrite,
// counters per route and neighbour.
//
// It reads its world from standard input (see feed in reference.go), then, for
// each line "PASSES", runs that often over all packets and answers
// "PACKETS NANOSECONDS": forwarded packets and CPU time of the thread.
#define _DEFAULT_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

enum { VECTOR = 256, FRAME = 64, HUGE = 2 << 20 };

struct world { uint32_t routes, hops, packets, pad; uint8_t mac[8]; };
struct feed_route { uint32_t addr, bits, hop; };
struct hop { uint64_t dmac, smac; uint32_t mtu, port; };
struct route { uint32_t hop, mtu; };
struct count { uint64_t packets, bytes, last; };

static uint32_t *tbl24, *tbl8, blocks;
static struct route *route;
static struct hop *hop;
static struct count *by_route, *by_hop;
static uint8_t *frames;

static void die(const char *what) { fprintf(stderr, "l3fwd: %s\n", what); exit(1); }

static void get(void *to, size_t n) {
	if (fread(to, 1, n, stdin) != n)
		die("short feed");
}

static void *zeroed(size_t n) {
	void *p;
	if (posix_memalign(&p, n < HUGE ? 64 : HUGE, n + 64))
		die("no memory");
	madvise(p, n & -HUGE, MADV_HUGEPAGE); // softpipe does so too
	return memset(p, 0, n + 64);
}

// add inserts a prefix; the feed comes shortest first, so later ones win.
static void add(const struct feed_route *r, uint32_t slot) {
	uint32_t first = r->addr >> 8;
	if (r->bits <= 24) {
		for (uint32_t i = 0; i < 1u << (24 - r->bits); i++)
			tbl24[first + i] = slot;
		return;
	}
	if (!(tbl24[first] >> 31)) {
		if (!(blocks & (blocks - 1))) // grow at powers of two
			tbl8 = realloc(tbl8, 2048ul * (blocks ? blocks : 1));
		if (!tbl8)
			die("no memory");
		for (uint32_t i = 0; i < 256; i++)
			tbl8[blocks << 8 | i] = tbl24[first];
		tbl24[first] = 1u << 31 | blocks++;
	}
	uint32_t block = tbl24[first] & 0x7fffffff;
	for (uint32_t i = 0; i < 1u << (32 - r->bits); i++)
		tbl8[block << 8 | ((r->addr & 255) + i)] = slot;
}

static uint64_t now(clockid_t c) {
	struct timespec t;
	clock_gettime(c, &t);
	return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static inline int special(uint32_t a) { return a == 0 || a >> 24 == 127 || a >> 28 == 14 || a == 0xffffffff; }

// forward takes n frames through all stages and returns how many it forwarded.
static uint32_t forward(uint8_t *at, uint32_t n, uint64_t our_mac) {
	static uint32_t dst[VECTOR], slot[VECTOR], len[VECTOR], out[VECTOR];
	static uint8_t *f[VECTOR];
	uint32_t live = 0;
	uint64_t stamp = now(CLOCK_MONOTONIC);

	for (uint32_t i = 0; i < n; i++)
		__builtin_prefetch(at + i * FRAME, 1);
	for (uint32_t i = 0; i < n; i++) {
		uint8_t *p = at + i * FRAME;
		uint64_t a, b, mac;
		uint32_t c, d;
		uint16_t type, total;
		memcpy(&mac, p, 8), memcpy(&type, p + 12, 2);
		memcpy(&a, p + 14, 8), memcpy(&b, p + 22, 8), memcpy(&c, p + 30, 4);
		if ((mac & 0xffffffffffff) != our_mac || type != 0x0008 || (a & 0xff) != 0x45)
			continue;
		total = __builtin_bswap16(a >> 16);
		if (total < 20 || total > FRAME - 14)
			continue;
		uint64_t s = (a & 0xffffffff) + (a >> 32) + (b & 0xffffffff) + (b >> 32) + c;
		s = (s & 0xffff) + ((s >> 16) & 0xffff) + (s >> 32);
		s = (s & 0xffff) + (s >> 16);
		s = (s & 0xffff) + (s >> 16);
		d = __builtin_bswap32(c);
		if (s != 0xffff || special(__builtin_bswap32(b >> 32)) || special(d) || (uint8_t)b <= 1)
			continue;
		f[live] = p, dst[live] = d, len[live] = total;
		__builtin_prefetch(&tbl24[d >> 8]);
		live++;
	}
	for (uint32_t i = 0; i < live; i++) {
		slot[i] = tbl24[dst[i] >> 8];
		if (slot[i] >> 31)
			__builtin_prefetch(&tbl8[(slot[i] & 0x7fffffff) << 8 | (dst[i] & 255)]);
	}
	for (uint32_t i = 0; i < live; i++) {
		if (slot[i] >> 31)
			slot[i] = tbl8[(slot[i] & 0x7fffffff) << 8 | (dst[i] & 255)];
		__builtin_prefetch(&route[slot[i]]);
		__builtin_prefetch(&by_route[slot[i]], 1);
	}
	uint32_t k = 0;
	for (uint32_t i = 0; i < live; i++) {
		const struct route *r = &route[slot[i]];
		const struct hop *h = &hop[r->hop];
		if (!slot[i] || len[i] > h->mtu || (r->mtu && len[i] > r->mtu))
			continue;
		f[k] = f[i], slot[k] = slot[i], out[k] = r->hop, k++;
	}
	for (uint32_t i = 0; i < k; i++) {
		const struct hop *h = &hop[out[i]];
		uint8_t *p = f[i];
		uint64_t w = h->dmac | h->smac << 48;
		uint32_t x = h->smac >> 16;
		uint16_t sum;
		memcpy(p, &w, 8), memcpy(p + 8, &x, 4);
		p[22]--;
		memcpy(&sum, p + 24, 2);
		uint32_t t = sum + 1u;
		sum = t + (t >= 0xffff);
		memcpy(p + 24, &sum, 2);
		struct count *c = &by_route[slot[i]];
		c->packets++, c->bytes += FRAME, c->last = stamp;
		c = &by_hop[out[i]];
		c->packets++, c->bytes += FRAME, c->last = stamp;
	}
	return k;
}

int main(void) {
	struct world w;
	get(&w, sizeof w);
	tbl24 = zeroed(4ul << 24);
	route = zeroed(sizeof *route * (w.routes + 1ul));
	by_route = zeroed(sizeof *by_route * (w.routes + 1ul));
	hop = zeroed(sizeof *hop * w.hops);
	by_hop = zeroed(sizeof *by_hop * w.hops);
	frames = zeroed((size_t)FRAME * w.packets);
	uint8_t *fresh = zeroed((size_t)FRAME * w.packets);
	get(hop, sizeof *hop * w.hops);
	for (uint32_t i = 1; i <= w.routes; i++) {
		struct feed_route r;
		get(&r, sizeof r);
		route[i].hop = r.hop;
		add(&r, i);
	}
	get(fresh, (size_t)FRAME * w.packets);
	uint64_t mac;
	memcpy(&mac, w.mac, 8);

	char line[64];
	while (fgets(line, sizeof line, stdin)) {
		memcpy(frames, fresh, (size_t)FRAME * w.packets);
		uint64_t done = 0, start = now(CLOCK_THREAD_CPUTIME_ID);
		for (int pass = atoi(line); pass > 0; pass--)
			for (uint32_t i = 0; i < w.packets; i += VECTOR)
				done += forward(frames + (size_t)i * FRAME, w.packets - i < VECTOR ? w.packets - i : VECTOR, mac);
		printf("%llu %llu\n", (unsigned long long)done, (unsigned long long)(now(CLOCK_THREAD_CPUTIME_ID) - start));
		fflush(stdout);
	}
	return 0;
}
