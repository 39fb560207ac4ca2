package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
)

// FerretDB's update reads a document, changes it and writes it in separate steps, so two updates at once can both find
// the version they ask for. A MongoDB server never does that. The front hands it one request at a time, each to its
// end, and so every command is atomic, as clients of the protocol may expect. It also holds an open query for every
// update of one command, of at most 100: the limit that it announces is made smaller.

const (
	moreToCome    = 1 << 1 // OP_MSG: no answer will come
	messageBytes  = 48_000_000
	updatesAtOnce = 50
	headerBytes   = 16
	operationMsg  = 2013
)

type front struct {
	backend string // a Unix socket
	one     sync.Mutex
}

func (f *front) serve(ctx context.Context, address string) error {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	go func() {
		<-ctx.Done()
		listener.Close()
	}()
	for {
		client, err := listener.Accept()
		if err != nil {
			return err
		}
		go f.talk(client)
	}
}

func (f *front) talk(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("unix", f.backend)
	if err != nil {
		return
	}
	defer server.Close()
	for {
		request, err := message(client)
		if err != nil {
			return
		}
		answer, err := f.ask(server, request)
		if err != nil {
			return
		}
		if _, err = client.Write(answer); err != nil {
			return
		}
	}
}

func (f *front) ask(server net.Conn, request []byte) ([]byte, error) {
	f.one.Lock()
	defer f.one.Unlock()
	if _, err := server.Write(request); err != nil {
		return nil, err
	}
	operation := binary.LittleEndian.Uint32(request[12:])
	silent := operation == operationMsg && binary.LittleEndian.Uint32(request[headerBytes:])&moreToCome != 0
	if silent {
		return nil, nil
	}
	answer, err := message(server)
	if err == nil {
		lower(answer, "maxWriteBatchSize", updatesAtOnce)
	}
	return answer, err
}

// lower sets an int32 of an answer's document to limit, where the document has it.
func lower(answer []byte, name string, limit uint32) {
	key := append([]byte{0x10}, append([]byte(name), 0)...)
	if at := bytes.Index(answer, key); at >= 0 && at+len(key)+4 <= len(answer) {
		binary.LittleEndian.PutUint32(answer[at+len(key):], limit)
	}
}

// message reads one message with its header.
func message(from io.Reader) ([]byte, error) {
	header := make([]byte, headerBytes)
	if _, err := io.ReadFull(from, header); err != nil {
		return nil, err
	}
	size := binary.LittleEndian.Uint32(header)
	if size < headerBytes+4 || size > messageBytes {
		return nil, errors.New("a message of an impossible size")
	}
	whole := make([]byte, size)
	copy(whole, header)
	_, err := io.ReadFull(from, whole[headerBytes:])
	return whole, err
}
