package difflab

// keptScenarios are what TestRandom found, shrunk.
func keptScenarios() []*scenario {
	return []*scenario{
		{name: "local is not looked up", rounds: []round{
			{lines: []string{
				"ip addr add 10.0.2.1/24 brd + dev swp2",
				"ip neigh replace 10.0.2.5 lladdr 02:00:00:00:12:05 dev swp2 nud noarp",
				"ip -4 route add 10.20.0.0/16 via 10.0.2.5 dev swp2 table local",
			}},
			{lines: []string{
				"ip -4 rule del pref 0",
			}, shots: []shot{
				{in: 1, frame: unhex("02000000020102000000010108004500005457b20000401133caa9fe07070a142f5503e807d000400000a71ff0170000000001020304")},
			}},
		}},
		{name: "a host's prefix while local is not looked up", rounds: []round{
			{lines: []string{
				"ip addr add 2001:db8:3::1/64 dev swp3 nodad",
				"ip neigh replace 2001:db8:3::5 lladdr 02:00:00:00:13:05 dev swp3 nud noarp",
				"ip -6 route add local 2001:db8:3::5/128 dev lo table local",
				"ip -6 rule add pref 100 to 2600::/16 lookup 100",
				"ip -6 rule del pref 0",
			}, shots: []shot{
				{in: 2, frame: unhex("02000000020202000000010286dd600000000014114020010db800020000000000000000006320010db800030000000000000000000500353db700000000a71ff0170000000001020304")},
			}},
		}},
		{name: "a host's prefix while local is only said not to be looked up", rounds: []round{
			{lines: []string{
				"ip addr add 2001:db8:3::1/64 dev swp3 nodad",
				"ip neigh replace 2001:db8:3::5 lladdr 02:00:00:00:13:05 dev swp3 nud noarp",
				"ip -6 route add local 2001:db8:3::5/128 dev lo table local",
				"ip -6 rule del pref 0",
			}, shots: []shot{
				{in: 2, frame: unhex("02000000020202000000010286dd600000000014114020010db800020000000000000000006320010db800030000000000000000000500353db700000000a71ff0170000000001020304")},
			}},
		}},
		{name: "an IPv6 leg of a port whose IPv6 is switched off", rounds: []round{
			{lines: []string{
				"ip addr add 2001:db8:1::1/64 dev swp1 nodad",
				"ip neigh replace 2001:db8:1::3 lladdr 02:00:00:00:11:03 dev swp1 nud permanent",
				"ip addr add 2001:db8:3::1/64 dev swp3 nodad",
				"ip addr add 2001:db8:4::1/64 dev swp4 nodad",
				"ip -6 route add 8000::/1 nexthop via 2001:db8:3::2 nexthop via 2001:db8:4::2 dev swp4 nexthop via 2001:db8:1::3 dev swp1",
				"sysctl net/ipv6/conf/swp4/disable_ipv6=1",
			}, shots: []shot{
				{in: 1, frame: unhex("02000000020102000000010186dd600152180020064020010db80001000000000000000000208000000100142010240890000000abeb2494003500000000000000005002000000000000a71ff0170000000001020304")},
			}},
			{lines: []string{
				"sysctl net/ipv6/conf/swp4/disable_ipv6=0",
			}, shots: []shot{
				{in: 1, frame: unhex("02000000020102000000010186dd600152180020064020010db80001000000000000000000208000000100142010240890000000abeb2494003500000000000000005002000000000000a71ff0170000000001020304")},
			}},
		}},
		{name: "a rule by protocol changes the IPv6 multipath hash", rounds: []round{
			{lines: []string{
				"sysctl net/ipv4/fib_multipath_hash_seed=1958158951",
				"ip addr add 2001:db8:2::1/64 dev swp2 nodad",
				"ip addr add 2001:db8:3::1/64 dev swp3 nodad",
				"ip neigh replace 2001:db8:2::3 lladdr 02:00:00:00:12:03 dev swp2 nud permanent",
				"ip neigh replace 2001:db8:3::4 lladdr 02:00:00:00:13:04 dev swp3 nud permanent",
				"ip addr add 2001:db8:4::1/64 dev swp4 nodad",
				"ip neigh replace 2001:db8:4::5 lladdr 02:00:00:00:14:05 dev swp4 nud permanent",
				"ip nexthop add id 6 via 2001:db8:3::4 dev swp3",
				"ip nexthop add id 7 via 2001:db8:4::5 dev swp4",
				"ip nexthop add id 8 via 2001:db8:2::3 dev swp2",
				"ip nexthop add id 26 group 7,2/6/8,9",
				"ip -6 route add 8000::/1 nhid 26",
				"ip -6 rule add pref 150 from 2001:db8:2::/64 to 2001:db8:23::/96 ipproto ipv6-icmp lookup main",
			}, shots: []shot{
				{in: 1, frame: unhex("02000000020102000000010186dd600927a500143a4020010db800010000000000000000001dfec00000000000000000000000000001810000001a7b0001a71ff0170000000001020304")},
			}},
			{lines: []string{
				"ip -6 rule del pref 150",
			}, shots: []shot{
				{in: 1, frame: unhex("02000000020102000000010186dd600927a500143a4020010db800010000000000000000001dfec00000000000000000000000000001810000001a7b0001a71ff0170000000001020304")},
			}},
		}},
	}
}
