package api

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"antiphon/agent"
	"antiphon/agent/replica"
	"antiphon/agent/resolve"
	"antiphon/hwmodel"
	"antiphon/netstate"
	"antiphon/transport"
)

// verifyRounds: differing keys are checked again once, since the kernel may
// have changed between the dumps and the comparison.
const verifyRounds = 2

// VerifyAnswer is what verify answers.
type VerifyAnswer struct {
	// Checked counts compared rows by kind; "device" counts compared entries.
	Checked     map[string]int `json:"checked"`
	Differences []Difference   `json:"differences"`
}

// Difference is one key that is not as the kernel has it.
type Difference struct {
	Kind string `json:"kind"`
	Key  string `json:"key"`
	// Where: "agent" (the mirror differs from the kernel) or "device" (what it
	// holds differs from what the kernel's state comes to).
	Where string `json:"where"`
	// Kernel is what should be there, Have what is; null for nothing.
	Kernel any `json:"kernel"`
	Have   any `json:"have"`
}

func (d Difference) id() string { return d.Where + "\x00" + d.Kind + "\x00" + d.Key }

// verify compares kernel, agent and device. The kernel's side comes from dumps
// of its own, not from the mirror.
func (v *Verbs) verify(ctx context.Context, args transport.VerifyArgs) (any, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout(args.TimeoutMS))
	defer cancel()
	var a VerifyAnswer
	for round := range verifyRounds {
		if err := v.agent.Barrier(ctx, false); err != nil {
			return nil, fmt.Errorf("verify: %w", err)
		}
		fresh, err := v.freshMirror(ctx)
		if err != nil {
			return nil, fmt.Errorf("verify: %w", err)
		}
		now, err := v.compare(ctx, fresh)
		if err != nil {
			return nil, fmt.Errorf("verify: %w", err)
		}
		if round > 0 {
			now.Differences = both(a.Differences, now.Differences)
		}
		a = now
		if len(a.Differences) == 0 {
			return a, nil
		}
	}
	return a, errNegative
}

// both keeps what differed in both rounds, as it is now.
func both(before, now []Difference) []Difference {
	was := map[string]bool{}
	for _, d := range before {
		was[d.id()] = true
	}
	return slices.DeleteFunc(now, func(d Difference) bool { return !was[d.id()] })
}

// mirror is kernel state put together from a verify's dumps.
type mirror struct {
	rows     *replica.Replica
	settings *netstate.Settings
}

// dumped are the blocks of one kind's last complete dump.
type dumped struct {
	blocks [][]byte
	end    *transport.DumpEnd
}

// freshMirror asks the shim for fresh dumps and mirrors them anew.
func (v *Verbs) freshMirror(ctx context.Context) (*mirror, error) {
	kinds := map[netstate.Kind]*dumped{}
	var settings *transport.Settings
	err := v.agent.AskShim(ctx, transport.VerbVerify, nil, func(body []byte) error {
		var m transport.FromShim
		if err := proto.Unmarshal(body, &m); err != nil {
			return fmt.Errorf("answer of the shim: %w", err)
		}
		switch msg := m.GetMsg().(type) {
		case *transport.FromShim_Block:
			kind := netstate.Kind(msg.Block.GetKind())
			if msg.Block.GetFirst() || kinds[kind] == nil {
				kinds[kind] = &dumped{} // again, when the last was interrupted
			}
			kinds[kind].blocks = append(kinds[kind].blocks, msg.Block.GetBytes())
		case *transport.FromShim_DumpEnd:
			d := kinds[netstate.Kind(msg.DumpEnd.GetKind())]
			if d == nil {
				return errors.New("answer of the shim: a dump ends that did not begin")
			}
			d.end = msg.DumpEnd
		case *transport.FromShim_Settings:
			settings = msg.Settings
		default:
			return fmt.Errorf("answer of the shim: unexpected %T", msg)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if settings == nil {
		return nil, errors.New("answer of the shim: no settings")
	}
	m := &mirror{rows: replica.New(replica.Options{})}
	m.settings = m.rows.Settings(1, settings)
	return m, m.feed(kinds)
}

// feed gives a new Replica the dumps in the order in which it asks for them.
func (m *mirror) feed(kinds map[netstate.Kind]*dumped) error {
	seq := uint64(1)
	for !m.rows.CaughtUp() {
		asked := m.rows.Dumps()
		if len(asked) == 0 {
			return fmt.Errorf("dumps of the kernel are not complete: %s", strings.Join(m.rows.Pending(), "; "))
		}
		for _, ask := range asked {
			d := kinds[netstate.Kind(ask.GetKind())]
			if d == nil || d.end == nil {
				return fmt.Errorf("the shim sent no complete dump of %v rows", netstate.Kind(ask.GetKind()))
			}
			delete(kinds, netstate.Kind(ask.GetKind()))
			for i, b := range d.blocks {
				seq++
				if err := m.rows.Block(seq, &transport.Block{
					Dump: ask.GetId(), Kind: ask.GetKind(), First: i == 0, Last: i == len(d.blocks)-1, Bytes: b,
				}); err != nil {
					return err
				}
			}
			seq++
			if err := m.rows.DumpEnd(seq, &transport.DumpEnd{
				Id: ask.GetId(), Kind: ask.GetKind(), Rows: d.end.GetRows(), Interrupted: d.end.GetInterrupted(), Errno: d.end.GetErrno(),
			}); err != nil {
				return err
			}
		}
	}
	return nil
}

// compare holds fresh kernel state against the agent and the device.
func (v *Verbs) compare(ctx context.Context, fresh *mirror) (VerifyAnswer, error) {
	a := VerifyAnswer{Checked: map[string]int{}, Differences: []Difference{}}
	held, err := agent.ReadBack(ctx, v.agent.Device())
	if err != nil {
		return a, &agent.UnreachableError{Part: "device", Why: err.Error()}
	}
	var caps hwmodel.Capabilities
	have := map[netstate.Key]*netstate.Row{}
	fates := map[netstate.Key]resolve.Fate{}
	if err := v.agent.View(ctx, func(w agent.View) {
		caps, _ = w.Capabilities()
		for _, kind := range netstate.Kinds {
			for row := range w.Rows(kind) {
				have[row.Key] = row
				if f := w.Fate(row.Key); f.Standing != resolve.Offloaded {
					fates[row.Key] = f
				}
			}
		}
	}); err != nil {
		return a, err
	}
	n := &names{rows: map[uint32]*netstate.Row{}, decoded: map[uint32]*netstate.Link{}}
	n.dead = func(index uint32, family uint8) bool { return ignoreLinkdown(fresh.settings, n.name(index), family) }
	for key, row := range have {
		if key.Kind == netstate.KindLink {
			n.rows[key.ID] = row
		}
	}
	a.compareRows(fresh.rows, have, n)

	// What the kernel's state comes to on a device with room for all of it.
	roomy := caps
	for t := range roomy.Sizes {
		if roomy.Sizes[t] != 0 {
			roomy.Sizes[t] = ^uint32(0)
		}
	}
	plan := resolve.New(roomy)
	plan.Settings(fresh.settings)
	for _, ch := range fresh.rows.Changes() {
		// A row that is not understood traps, in both resolvers.
		_ = plan.Change(ch)
	}
	refused := expected(fates)
	if len(held.Routes) >= int(caps.Sizes[hwmodel.TableRoute]) {
		refused.tableIsFull(held.Routes)
	}
	a.compareDevice(plan.Plan(), held, refused, n)
	slices.SortFunc(a.Differences, func(x, y Difference) int { return strings.Compare(x.id(), y.id()) })
	return a, nil
}

// compareRows holds the agent's rows against the kernel's.
func (a *VerifyAnswer) compareRows(fresh *replica.Replica, have map[netstate.Key]*netstate.Row, n *names) {
	text := func(row *netstate.Row) any {
		if row == nil {
			return nil
		}
		all := make([]any, 0, len(row.Group))
		for _, raw := range row.Group {
			o, err := n.kernelObject(row.Key.Kind, raw)
			if err != nil {
				all = append(all, hex.EncodeToString(raw))
				continue
			}
			all = append(all, o)
		}
		if len(all) == 1 {
			return all[0]
		}
		return all
	}
	for _, kind := range netstate.Kinds {
		a.Checked[kind.String()] = 0
		for row := range rowsOf(fresh, kind) {
			a.Checked[kind.String()]++
			mine := have[row.Key]
			delete(have, row.Key)
			if mine == nil && unannounced(row) {
				continue
			}
			if mine == nil || !equalRows(row, mine) {
				a.Differences = append(a.Differences, Difference{kind.String(), n.title(row.Key), "agent", text(row), text(mine)})
			}
		}
	}
	for key, row := range have {
		a.Checked[key.Kind.String()]++
		a.Differences = append(a.Differences, Difference{key.Kind.String(), n.title(key), "agent", nil, text(row)})
	}
}

// unannounced rows are in dumps before the kernel says that they exist: IPv6
// addresses until duplicate detection is done (net/ipv6/addrconf.c
// addrconf_dad_completed). Nothing is received on them until then.
func unannounced(row *netstate.Row) bool {
	var d netstate.Addr
	return row.Key.Kind == netstate.KindAddr && row.Key.Family == familyIPv6 &&
		d.Decode(row.Group[0]) == nil && d.Flags&unix.IFA_F_TENTATIVE != 0
}

// equalRows compares groups, without what changes by itself.
func equalRows(a, b *netstate.Row) bool {
	return slices.EqualFunc(a.Group, b.Group, func(x, y []byte) bool { return netstate.Equal(a.Key.Kind, x, y) })
}

func rowsOf(r *replica.Replica, kind netstate.Kind) func(func(*netstate.Row) bool) {
	return func(yield func(*netstate.Row) bool) { r.Each(kind, yield) }
}
