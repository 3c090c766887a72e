package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"

	"antiphon/netstate"
)

// row is one object of show, with iproute2's keys.
type row map[string]any

// unmarshal keeps numbers as they are written.
func unmarshal(body []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	return d.Decode(v)
}

// rowsText writes rows as iproute2 does, each with its fate.
func rowsText(w *printer, kind netstate.Kind, body []byte, stats bool) error {
	var rows []row
	if err := unmarshal(body, &rows); err != nil {
		return err
	}
	for _, r := range rows {
		line := rowText(kind.String(), r)
		switch r.str("fate") {
		case "offloaded":
			line += "   offload"
		case "failed":
			line += "   rt_offload_failed reason " + r.str("reason")
		default:
			line += "   trap reason " + r.str("reason")
		}
		if stats {
			line += fmt.Sprintf("   %s pkts %s bytes", r.str("packets"), r.str("bytes"))
		}
		w.line("%s", line)
	}
	return nil
}

// str is a member as text, empty if there is none.
func (r row) str(key string) string {
	v, ok := r[key]
	if !ok || v == nil {
		return ""
	}
	return fmt.Sprint(v)
}

// words appends " word value" for every key that is there, in order; a pair
// without a word writes the value alone.
type words struct{ strings.Builder }

func (b *words) add(s ...string) {
	for _, x := range s {
		if x == "" {
			continue
		}
		if b.Len() > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(x)
	}
}

func (b *words) pair(word, value string) {
	if value != "" {
		b.add(word, value)
	}
}

func (r row) list(key string) []string {
	list, _ := r[key].([]any)
	out := make([]string, 0, len(list))
	for _, v := range list {
		out = append(out, fmt.Sprint(v))
	}
	return out
}

func (r row) objects(key string) []row {
	list, _ := r[key].([]any)
	var out []row
	for _, v := range list {
		if m, ok := v.(map[string]any); ok {
			out = append(out, m)
		}
	}
	return out
}

// rowText writes one row of a kind (netstate.Kind.String) in iproute2's style.
func rowText(kind string, r row) string {
	switch kind {
	case netstate.KindLink.String():
		return linkText(r)
	case netstate.KindAddr.String():
		return addressText(r)
	case netstate.KindNeighbor.String():
		return neighborText(r)
	case netstate.KindRoute.String():
		return routeText(r)
	case netstate.KindRule.String():
		return ruleText(r)
	case netstate.KindNexthop.String():
		return nexthopText(r)
	}
	return ""
}

func linkText(r row) string {
	var b words
	name := r.str("ifname")
	if below := r.str("link"); below != "" {
		name += "@" + below
	}
	b.add(r.str("ifindex")+":", name+":", "<"+strings.Join(r.list("flags"), ",")+">")
	b.pair("mtu", r.str("mtu"))
	b.pair("qdisc", r.str("qdisc"))
	b.pair("master", r.str("master"))
	b.pair("state", r.str("operstate"))
	b.pair("group", r.str("group"))
	b.pair("qlen", r.str("txqlen"))
	b.add("link/" + r.str("link_type"))
	b.add(r.str("address"))
	b.pair("brd", r.str("broadcast"))
	for _, alt := range r.list("altnames") {
		b.pair("altname", alt)
	}
	return b.String()
}

func addressText(r row) string {
	var b words
	b.add(r.str("ifindex")+":", r.str("ifname"), r.str("family"))
	local := r.str("local")
	if peer := r.str("address"); peer != "" {
		local += " peer " + peer
	}
	b.add(local + "/" + r.str("prefixlen"))
	b.pair("metric", r.str("metric"))
	b.pair("brd", r.str("broadcast"))
	b.pair("scope", r.str("scope"))
	b.add(r.str("label"))
	return b.String()
}

func neighborText(r row) string {
	var b words
	b.add(r.str("dst"))
	b.pair("dev", r.str("dev"))
	b.pair("lladdr", r.str("lladdr"))
	for _, flag := range []string{"router", "proxy", "managed", "extern_learn"} {
		if _, ok := r[flag]; ok {
			b.add(flag)
		}
	}
	b.pair("proto", r.str("protocol"))
	b.add(r.list("state")...)
	return b.String()
}

// hop writes how a route or nexthop leaves.
func (b *words) hop(r row) {
	if via, ok := r["via"].(map[string]any); ok {
		b.add("via", row(via).str("family"), row(via).str("host"))
	}
	b.pair("via", r.str("gateway"))
	b.pair("dev", r.str("dev"))
}

func routeText(r row) string {
	var b words
	b.add(r.str("type"), r.str("dst"))
	b.pair("from", r.str("from"))
	b.pair("nhid", r.str("nhid"))
	b.pair("tos", r.str("tos"))
	b.hop(r)
	b.pair("table", r.str("table"))
	b.pair("proto", r.str("protocol"))
	b.pair("scope", r.str("scope"))
	b.pair("src", r.str("prefsrc"))
	b.pair("metric", r.str("metric"))
	for _, m := range r.objects("metrics") {
		for _, key := range []string{"mtu", "advmss", "hoplimit"} {
			b.pair(key, m.str(key))
		}
	}
	b.add(r.list("flags")...)
	for _, leg := range r.objects("nexthops") {
		b.add("nexthop")
		b.hop(leg)
		b.pair("weight", leg.str("weight"))
		b.add(leg.list("flags")...)
	}
	b.pair("pref", r.str("pref"))
	return b.String()
}

func ruleText(r row) string {
	var b words
	b.add(r.str("priority") + ":")
	if _, ok := r["not"]; ok {
		b.add("not")
	}
	end := func(word, key, length string) {
		if v := r.str(key); v != "" {
			if l := r.str(length); l != "" {
				v += "/" + l
			}
			b.add(word, v)
		}
	}
	end("from", "src", "srclen")
	end("to", "dst", "dstlen")
	for _, key := range []string{"tos", "fwmark", "iif", "oif", "ipproto", "sport", "dport"} {
		b.pair(key, r.str(key))
	}
	b.pair("lookup", r.str("table"))
	b.pair("suppress_prefixlength", r.str("suppress_prefixlen"))
	b.add(r.str("action"))
	b.pair("goto", r.str("goto"))
	b.pair("proto", r.str("protocol"))
	return b.String()
}

func nexthopText(r row) string {
	var b words
	b.pair("id", r.str("id"))
	var members []string
	for _, m := range r.objects("group") {
		text := m.str("id")
		if weight := m.str("weight"); weight != "" {
			text += "," + weight
		}
		members = append(members, text)
	}
	b.pair("group", strings.Join(members, "/"))
	b.pair("type", r.str("type"))
	b.hop(r)
	b.pair("scope", r.str("scope"))
	b.pair("proto", r.str("protocol"))
	for _, flag := range []string{"blackhole", "fdb"} {
		if _, ok := r[flag]; ok {
			b.add(flag)
		}
	}
	b.add(r.list("flags")...)
	return b.String()
}
