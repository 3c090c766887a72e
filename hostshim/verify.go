package hostshim

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	"antiphon/hostshim/rtnl"
	"antiphon/netstate"
	"antiphon/transport"
)

// verifyTries is how often an interrupted dump is made again within one verify.
// Each attempt is a dump of its own; the last one stands as it is.
const verifyTries = 8

// verify answers with fresh dumps of every kind, from a socket of its own, and
// the settings: each answer's body is a FromShim (Block, DumpEnd, Settings), and
// the last answer has no body.
func (c *session) verify(id uint64) {
	last := &transport.Answer{Id: id}
	if err := c.freshState(id); err != nil {
		last.Exit, last.Error = transport.ExitNegative, err.Error()
	}
	c.hand(&transport.FromShim{Msg: &transport.FromShim_Answer{Answer: last}})
}

// hand gives a message to the loop; false means that the session has ended.
func (c *session) hand(m *transport.FromShim) bool {
	select {
	case c.outside <- m:
		return true
	case <-c.ctx.Done():
		return false
	}
}

func (c *session) freshState(id uint64) error {
	d, err := rtnl.OpenDumper(c.ns.Fd())
	if err != nil {
		return err
	}
	defer d.Close()
	var seq uint64
	tell := func(m *transport.FromShim) error {
		seq++
		m.Seq = seq
		body, err := proto.Marshal(m)
		if err != nil {
			return fmt.Errorf("verify: %w", err)
		}
		if !c.hand(&transport.FromShim{Msg: &transport.FromShim_Answer{Answer: &transport.Answer{Id: id, Body: body, More: true}}}) {
			return c.ctx.Err()
		}
		return nil
	}
	block := make([]byte, 0, transport.MaxBlock)
	var dump uint64
	for _, kind := range netstate.Kinds {
		for range verifyTries {
			dump++
			again, err := freshDump(d, dump, kind, block, tell)
			if err != nil {
				return err
			}
			if !again {
				break
			}
		}
	}
	return tell(&transport.FromShim{Msg: &transport.FromShim_Settings{Settings: c.survey.read()}})
}

// freshDump tells one dump; again means that it was interrupted.
func freshDump(d *rtnl.Dumper, id uint64, kind netstate.Kind, block []byte, tell func(*transport.FromShim) error) (again bool, err error) {
	if err := d.Start(kind, rtnl.Filter{}); err != nil {
		return false, err
	}
	end := &transport.DumpEnd{Id: id, Kind: uint32(kind)}
	for first, done := true, false; !done; first = false {
		rows, p, err := d.Read(block[:0])
		if err != nil {
			return false, err
		}
		end.Rows += p.Rows
		end.Interrupted = end.Interrupted || p.Interrupted
		end.Errno, done = uint32(p.Errno), p.Done
		if err := tell(&transport.FromShim{Msg: &transport.FromShim_Block{Block: &transport.Block{
			Dump: id, Kind: uint32(kind), First: first, Last: done, Bytes: rows}}}); err != nil {
			return false, err
		}
	}
	return end.Interrupted, tell(&transport.FromShim{Msg: &transport.FromShim_DumpEnd{DumpEnd: end}})
}
