package fleet

import (
	"bytes"
	"fmt"
	"io"
	"strconv"
)

// do1 is one exchange of HTTP/1.1.
func (c *Conn) do1(r Request) (status int, err error) {
	c.out = append(append(c.out[:0], r.head...), r.body...)
	if _, err := c.raw.Write(c.out); err != nil {
		return 0, err
	}
	line, err := c.readLine()
	if err != nil {
		return 0, err
	}
	if len(line) < 12 {
		return 0, fmt.Errorf("status line %q", line)
	}
	if status, err = parseStatus(line[9:12]); err != nil {
		return 0, err
	}
	length, chunked := 0, false
	for {
		if line, err = c.readLine(); err != nil {
			return 0, err
		}
		if len(line) == 0 {
			break
		}
		name, value, _ := bytes.Cut(line, []byte(": "))
		switch {
		case bytes.EqualFold(name, []byte("content-length")):
			if length, err = strconv.Atoi(string(value)); err != nil {
				return 0, err
			}
		case bytes.EqualFold(name, []byte("transfer-encoding")):
			chunked = true
		}
	}
	if !chunked {
		return status, c.take(length)
	}
	return status, c.takeChunks()
}

func (c *Conn) takeChunks() error {
	for {
		line, err := c.readLine()
		if err != nil {
			return err
		}
		n, err := strconv.ParseInt(string(line), 16, 32)
		if err != nil {
			return err
		}
		if err := c.take(int(n)); err != nil {
			return err
		}
		if _, err := c.readLine(); err != nil || n == 0 {
			return err
		}
	}
}

func (c *Conn) readLine() ([]byte, error) {
	line, err := c.in.ReadSlice('\n')
	return bytes.TrimRight(line, "\r\n"), err
}

// take reads n bytes of the body.
func (c *Conn) take(n int) error {
	old := len(c.body)
	c.body = append(c.body, make([]byte, n)...)
	_, err := io.ReadFull(c.in, c.body[old:])
	return err
}
