package depart

import (
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// listenerID stands for the listener among the holders of a watch.
const listenerID = 0

// watch is an epoll set of connections. The set's own descriptor is registered
// with Go's poller (an epoll set can be polled like a socket), so waiting
// parks a goroutine and blocks no thread.
type watch struct {
	set  *os.File
	raw  syscall.RawConn
	done chan struct{} // closed when the loop has returned

	mu    sync.Mutex
	next  uint64           // last id given out
	conns map[uint64]*Conn // nil at listenerID; empty: nobody needs the watch any more
}

func newWatch() (*watch, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("cannot create an epoll set: %w", err)
	}
	// os.NewFile hands a descriptor to the poller only if it is non-blocking.
	if err := unix.SetNonblock(fd, true); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("cannot make an epoll set non-blocking: %w", err)
	}
	w := &watch{
		set:   os.NewFile(uintptr(fd), "epoll"),
		done:  make(chan struct{}),
		conns: map[uint64]*Conn{listenerID: nil},
	}
	if w.raw, err = w.set.SyscallConn(); err != nil {
		_ = w.set.Close()
		return nil, fmt.Errorf("cannot poll an epoll set: %w", err)
	}
	go w.loop()
	return w, nil
}

// loop runs until the set is closed.
func (w *watch) loop() {
	defer close(w.done)
	events := make([]unix.EpollEvent, 128)
	for {
		n := 0
		err := w.raw.Read(func(fd uintptr) bool {
			for {
				var err error
				n, err = unix.EpollWait(int(fd), events, 0)
				if err != unix.EINTR {
					return n != 0 // 0: park until the set has an event
				}
			}
		})
		if err != nil || n < 0 {
			return
		}
		for _, e := range events[:n] {
			if e.Events&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) == 0 {
				continue
			}
			w.mu.Lock()
			c := w.conns[uint64(uint32(e.Fd))|uint64(uint32(e.Pad))<<32]
			w.mu.Unlock()
			if c != nil {
				c.depart()
			}
		}
	}
}

// add registers a connection, edge-triggered: one event when the client goes.
// The event carries the id, not the descriptor, which the kernel may give to
// another connection before the event is read.
func (w *watch) add(c *Conn) error {
	sc, ok := c.Conn.(syscall.Conn)
	if !ok {
		return nil // not a socket (a pipe in a test): a failing write will tell
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return fmt.Errorf("cannot watch a connection: %w", err)
	}
	w.mu.Lock()
	if len(w.conns) == 0 {
		w.mu.Unlock()
		return net.ErrClosed
	}
	w.next++
	c.watch, c.id = w, w.next
	w.conns[c.id] = c
	w.mu.Unlock()

	ctlErr := error(nil)
	err = raw.Control(func(fd uintptr) {
		event := unix.EpollEvent{Events: unix.EPOLLRDHUP | unix.EPOLLET, Fd: int32(uint32(c.id)), Pad: int32(uint32(c.id >> 32))}
		err := w.raw.Control(func(set uintptr) {
			ctlErr = unix.EpollCtl(int(set), unix.EPOLL_CTL_ADD, int(fd), &event)
		})
		if err != nil {
			ctlErr = err
		}
	})
	if err == nil {
		err = ctlErr
	}
	if err != nil {
		w.release(c.id)
		return fmt.Errorf("cannot watch a connection: %w", err)
	}
	return nil
}

// release takes out a holder; with the last one the watch ends.
func (w *watch) release(id uint64) {
	if w == nil {
		return
	}
	w.mu.Lock()
	_, held := w.conns[id]
	delete(w.conns, id)
	last := held && len(w.conns) == 0
	w.mu.Unlock()
	if last {
		_ = w.set.Close() // wakes the loop
		<-w.done
	}
}
