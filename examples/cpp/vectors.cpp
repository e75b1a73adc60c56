// Read conformance vectors: ./vectors ../../tests/vectors/*.bin
// Prints a line of JSON for each: its name, and what was read or {"refuse": true}.

#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>

#include "decode.hpp"

using namespace streamseg;

static Parts parts_of(const std::string& bytes) {
    Parts parts;
    for (size_t at = 0; at < bytes.size(); at += 4 + parts.back().size()) {
        uint32_t length = 0;
        for (size_t i = at; i < at + 4; i++) length = length << 8 | static_cast<uint8_t>(bytes.at(i));
        parts.push_back(bytes.substr(at + 4, length));
    }
    return parts;
}

static json decoded(const Parts& parts) {
    Mask mask = decode(parts);
    auto rows = [&](const Labels& values) {
        json found = json::array();
        const size_t width = mask.header["shape"][1];
        for (size_t at = 0; at < values.size(); at += width)
            found.push_back(Labels(values.begin() + at, values.begin() + at + width));
        return found;
    };
    json all = mask.header;
    if (all["kind"] == "picture") {
        std::string hex;
        for (const char byte : parts[2]) {
            hex += "0123456789abcdef"[(byte >> 4) & 15];
            hex += "0123456789abcdef"[byte & 15];
        }
        all["jpeg"] = hex;
    }
    if (!mask.labels.empty()) all["labels"] = rows(mask.labels);
    if (!mask.confidence.empty()) all["confidence"] = rows(mask.confidence);
    return all;
}

static json read(const Parts& parts) {
    if (parts.at(0) != "snapshot") return decoded(parts);
    if (static_cast<uint8_t>(parts.at(1)[0]) < 0x80)  // text, so it is a request
        return {{"prefixes", std::vector<std::string>(parts.begin() + 1, parts.end())}};
    const Snapshot snapshot = parse_snapshot(parts);
    json messages = json::array();
    for (const Parts& message : snapshot.messages) messages.push_back(decoded(message));
    return {{"run", snapshot.run}, {"messages", messages}};
}

int main(int count, char** paths) {
    for (int i = 1; i < count; i++) {
        std::ifstream file(paths[i], std::ios::binary);
        const std::string bytes{std::istreambuf_iterator<char>(file), {}};
        json output;
        try {
            output = read(parts_of(bytes));
        } catch (const std::exception&) {
            output = {{"refuse", true}};
        }
        std::cout << json{{"name", std::filesystem::path(paths[i]).stem()}, {"output", output}}.dump() << "\n";
    }
}
