// Package presence finds kernel state that can change a packet's fate and is not
// mirrored: nftables, iptables, tc, XDP, TCX, netfilter BPF programs, xfrm, IPVS,
// multicast routing, bridge-nf. It says that something is there and whom it can
// touch, never what it does; in doubt it says that it is there. What it cannot
// find out is itself a presence ("unknown").
package presence
