package receive

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"strconv"
)

// maxMessage is more than any message that is measured.
const maxMessage = 1 << 20

// Serve accepts connections until the listener is closed, and calls yield with
// every message, which has its length in front. Yield may be called from several
// goroutines; the message is valid until it returns. What is cut off is left out.
// An error, also one of yield, ends the connection and goes to fail.
func Serve(l net.Listener, yield func(message []byte) error, fail func(error)) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close() //nolint:errcheck // it is only read
			if err := read(c, yield); err != nil {
				fail(err)
			}
		}()
	}
}

func read(c net.Conn, yield func([]byte) error) error {
	in := bufio.NewReaderSize(c, 256<<10)
	message := make([]byte, maxMessage)
	for {
		prefix, err := in.ReadSlice(' ')
		if err != nil {
			return nil //nolint:nilerr // it ended
		}
		n, err := strconv.Atoi(string(prefix[:len(prefix)-1]))
		if err != nil || n < 0 || n > maxMessage {
			return fmt.Errorf("read message: its length is %q", prefix)
		}
		if _, err := io.ReadFull(in, message[:n]); err != nil {
			return nil //nolint:nilerr // cut off
		}
		if err := yield(message[:n]); err != nil {
			return err
		}
	}
}
