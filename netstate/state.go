package netstate

// Row is one mirrored row: an ordered group of raw netlink messages under a key.
// Most kinds have exactly one message; routes have one per IPv4 alias or IPv6
// same-metric entry, in the kernel's order (the first IPv4 alias forwards).
// Rows are values: a changed row is a new Row, so readers may keep pointers.
type Row struct {
	Key Key
	// Group holds whole messages (nlmsghdr included), nlmsg_seq, nlmsg_pid and
	// nlmsg_flags zeroed.
	Group [][]byte
	// Seq is the session sequence number of the block that last changed it.
	Seq uint64
	// Suspect rows are in doubt: they trap until a dump settles them.
	Suspect bool
}

// Change says that a key now has this row, or is gone.
type Change struct {
	Key Key
	// Row is nil when the key is gone.
	Row *Row
}

// Setting is one sysctl, name as under /proc/sys with dots, for example
// "net.ipv4.conf.swp1.rp_filter" (interface names keep their own dots: the
// reader splits on the known prefix and suffix).
type Setting struct {
	Name  string
	Value string
}

// Presence says that kernel state exists which can change a packet's fate and
// is not mirrored (01 "What is not mirrored must trap").
type Presence struct {
	// What is the suffix of a reason: nftables, iptables, tc, xdp, xfrm, ipvs,
	// mroute, bridge-nf, sysctl, unknown.
	What string
	// Ifindex limits it to one interface; 0 means the whole namespace.
	Ifindex uint32
	// Family is AF_INET (2) or AF_INET6 (10); 0 means every family.
	Family uint8
	// Ingress and Egress: which way of the interface; both when it is global.
	Ingress, Egress bool
	// Detail is for people: "table inet filter chain fwd hook forward".
	Detail string
}

// Settings is the whole of the settings and presences at one moment; each one
// replaces the last.
type Settings struct {
	Settings  []Setting
	Presences []Presence
}
