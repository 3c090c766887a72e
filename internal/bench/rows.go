package main

import "antiphon/hwmodel/softpipe/pipebench"

// rows is the table of the performance targets, in the order of the road.
func rows() []row {
	return []row{
		{"kernel → shim, full dump of 1M routes", "raw read-only dump of the same table",
			atLeast(0.80), atLeast(0.60), dump},
		{"kernel → shim (null sink), live changes", "a bare recvmmsg loop without parsing",
			atLeast(0.80), atLeast(0.50), live},
		{"shim → agent", "raw length-prefixed frames, same items and batch",
			atLeast(0.15), atLeast(0.05), nil},
		{"persist, first sync", "bbolt load of the same records in sorted order",
			atLeast(0.70), atLeast(0.40), nil},
		{"persist, churn", "bbolt random 10k batches",
			atLeast(0.90), atLeast(0.70), nil},
		{"agent restart, warm", "raw bbolt scan of the same file",
			atMost(2.5), atMost(5), nil},
		{"program, routes into the device", "plain DIR-24-8 build of the same prefixes",
			atLeast(0.40), atLeast(0.20), program},
		{"end to end: ip route → programmed, 1M routes", "raw batched netlink install, CPU of all processes",
			atMost(3), atMost(6), nil},
		{"latency: one route change → programmed", "p99 of the same request's own round trip",
			atMost(20), atMost(100), nil},
		{"forward, L3 only, 1M routes, hot", "a C loop (staged, prefetch) doing the same work",
			atLeast(0.50), atLeast(0.30), forward(pipebench.HotPackets)},
		{"forward, L3 only, 1M routes, cold", "a C loop (staged, prefetch) doing the same work",
			atLeast(0.50), atLeast(0.30), forward(pipebench.ColdPackets)},
		{"forward, L3 IPv6, 1M routes, hot", "softpipe's own IPv4 of as many routes and packets",
			atLeast(0.50), atLeast(0.30), forward6(pipebench.HotPackets)},
		{"forward, L3 IPv6, 1M routes, cold", "softpipe's own IPv4 of as many routes and packets",
			atLeast(0.50), atLeast(0.30), forward6(pipebench.ColdPackets)},
		{"forward, full pipeline", "the minimal Go L3 loop",
			atLeast(0.20), atLeast(0.10), nil},
		{"forward, VXLAN encap/decap", "the minimal Go L3 loop",
			atLeast(0.25), atLeast(0.12), nil},
		{"parse", "gopacket DecodingLayerParser on the same frames",
			atLeast(5), atLeast(3), parse},
		{"counters → BPF map, hash", "raw single bpf(2) update",
			atLeast(1.5), atLeast(1.2), nil},
		{"counters → BPF map, dense ids", "batched array update",
			atLeast(10), atLeast(5), nil},
		{"memory at 1M routes, agent", "–",
			bytesAtMost(250), bytesAtMost(500), nil},
	}
}
