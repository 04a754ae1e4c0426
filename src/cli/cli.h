// The command line: parses, calls, prints. Every command is one file (command_*.cpp) with one entry in the table of
// commands (cli.cpp), from which the parser, the help and docs/cli.md come. Results go to stdout, all else to stderr.
#pragma once

namespace plumb::cli {

// Exit codes, as docs/cli.md lists them: 0 done; 1 done, and the answer is "no"; 2 bad usage or unreadable input;
// 128 plus the number of the signal that ended it, which is 130 after Ctrl-C.
int main(int argc, char** argv);

}  // namespace plumb::cli
