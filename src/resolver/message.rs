//! DNS messages: what is read of a query, and the answers that are written here.
//!
//! The counts in a message's head are checked before it is parsed, since the parser makes room for
//! as many records as they say.

use std::net::Ipv4Addr;

use simple_dns::{
    CLASS, OPCODE, Packet, PacketFlag, QCLASS, QTYPE, Question as Asked, RCODE, ResourceRecord,
    TYPE, header_buffer as head,
    rdata::{A, OPT, RData},
};

/// Most bytes of an answer by UDP for a client that says nothing else (RFC 1035, 2.3.4).
pub(super) const PLAIN_UDP: u16 = 512;
/// What this server takes by UDP: what passes every network whole (RFC 9715).
const OUR_UDP: u16 = 1232;
/// How long an app's address may be kept. It changes only with the instance's network.
const TTL: u32 = 30;
/// Most records beside the question of a query: EDNS, and a signature.
const MAX_ADDITIONAL: u16 = 4;

/// A message as far as it concerns this server.
pub(super) enum Read<'a> {
    /// Too short, or itself an answer: answering could make two servers talk for ever.
    NoQuery,
    /// A query that is not to be answered or forwarded.
    Refused(Header, RCODE),
    /// One that is.
    Query(Query<'a>),
}

/// The parts of a head that an answer repeats.
#[derive(Debug, Clone, Copy)]
pub(super) struct Header {
    /// The number that the client knows its query by.
    pub(super) id: u16,
    wants_recursion: bool,
}

/// A query.
pub(super) struct Query<'a> {
    /// Its head.
    pub(super) header: Header,
    /// What is asked; `None` for what the library does not know, such as new types of records.
    pub(super) question: Option<Question<'a>>,
    /// Most bytes of an answer by UDP.
    pub(super) payload: u16,
    has_edns: bool,
}

/// What is asked.
pub(super) struct Question<'a> {
    /// The name in lower case, without a dot at its end.
    pub(super) name: String,
    asked: Asked<'a>,
}

/// Reads a message.
pub(super) fn read(message: &[u8]) -> Read<'_> {
    let is_answer = head::has_flags(message, PacketFlag::RESPONSE);
    let (Ok(id), Ok(false)) = (head::id(message), is_answer) else {
        return Read::NoQuery;
    };
    let counts = [
        head::questions(message),
        head::answers(message),
        head::name_servers(message),
        head::additional_records(message),
    ];
    let [Ok(questions), Ok(answers), Ok(servers), Ok(additional)] = counts else {
        return Read::NoQuery;
    };
    let wants_recursion = head::has_flags(message, PacketFlag::RECURSION_DESIRED);
    let header = Header {
        id,
        wants_recursion: wants_recursion.unwrap_or_default(),
    };
    if head::opcode(message) != Ok(OPCODE::StandardQuery) {
        return Read::Refused(header, RCODE::NotImplemented);
    }
    if (questions, answers, servers) != (1, 0, 0) || additional > MAX_ADDITIONAL {
        return Read::Refused(header, RCODE::FormatError);
    }
    Read::Query(query(header, message))
}

fn query(header: Header, message: &[u8]) -> Query<'_> {
    let Ok(mut packet) = Packet::parse(message) else {
        return Query {
            header,
            question: None,
            payload: PLAIN_UDP,
            has_edns: false,
        };
    };
    let payload = packet.opt().map(|opt| opt.udp_packet_size.max(PLAIN_UDP));
    let question = packet.questions.pop().map(|asked| Question {
        name: asked.qname.to_string().to_ascii_lowercase(),
        asked,
    });
    Query {
        header,
        question,
        payload: payload.unwrap_or(PLAIN_UDP),
        has_edns: payload.is_some(),
    }
}

/// The answer that a name is an app's: its address for who asks for one, and that there is nothing
/// of any other kind.
pub(super) fn app(query: &Query<'_>, question: &Question<'_>, at: Ipv4Addr) -> Option<Vec<u8>> {
    let mut reply = reply(query.header);
    reply.set_flags(PacketFlag::AUTHORITATIVE_ANSWER);
    let asked = &question.asked;
    let is_address = matches!(asked.qtype, QTYPE::TYPE(TYPE::A) | QTYPE::ANY);
    let is_internet = matches!(asked.qclass, QCLASS::CLASS(CLASS::IN) | QCLASS::ANY);
    if is_address && is_internet {
        let address = RData::A(A::from(at));
        let record = ResourceRecord::new(asked.qname.clone(), CLASS::IN, TTL, address);
        reply.answers.push(record);
    }
    reply.questions.push(asked.clone());
    if query.has_edns {
        *reply.opt_mut() = Some(OPT {
            opt_codes: Vec::new(),
            udp_packet_size: OUR_UDP,
            version: 0,
        });
    }
    reply.build_bytes_vec_compressed().ok()
}

/// The answer that there is none, for this reason.
pub(super) fn refuse(header: Header, code: RCODE) -> Option<Vec<u8>> {
    let mut reply = reply(header);
    *reply.rcode_mut() = code;
    reply.build_bytes_vec().ok()
}

fn reply<'a>(header: Header) -> Packet<'a> {
    let mut reply = Packet::new_reply(header.id);
    reply.set_flags(PacketFlag::RECURSION_AVAILABLE);
    if header.wants_recursion {
        reply.set_flags(PacketFlag::RECURSION_DESIRED);
    }
    reply
}

/// Whether a server's message is the answer to the query that was sent to it as number `id`.
pub(super) fn is_answer_to(answer: &[u8], id: u16, query: &Query<'_>) -> bool {
    let is_reply =
        head::id(answer) == Ok(id) && head::has_flags(answer, PacketFlag::RESPONSE) == Ok(true);
    let Some(question) = query.question.as_ref().filter(|_| is_reply) else {
        return is_reply;
    };
    // Servers that refuse leave the question out.
    if head::questions(answer) == Ok(0) {
        return true;
    }
    // Only what stands before the records is parsed: these are the client's to read.
    let mut start = answer.to_vec();
    let counts_of_records = 6..12;
    if let Some(counts) = start.get_mut(counts_of_records) {
        counts.fill(0);
    }
    let Ok(parsed) = Packet::parse(&start) else {
        return false;
    };
    let asked = &question.asked;
    matches!(parsed.questions.as_slice(), [one] if one.qname == asked.qname && one.qtype == asked.qtype)
}

/// Whether another server may know better.
pub(super) fn is_unhelpful(answer: &[u8]) -> bool {
    matches!(
        head::rcode(answer),
        Ok(RCODE::ServerFailure | RCODE::Refused | RCODE::NotImplemented)
    )
}

/// Numbers a message.
pub(super) fn set_id(message: &mut [u8], id: u16) {
    if let Some(place) = message.get_mut(..2) {
        place.copy_from_slice(&id.to_be_bytes());
    }
}

/// Cuts an answer that is too long for UDP down to its head and question, and marks it, so that its
/// client asks again by TCP.
pub(super) fn cut(answer: Vec<u8>, query: &Query<'_>, most: u16) -> Option<Vec<u8>> {
    if answer.len() <= usize::from(most) {
        return Some(answer);
    }
    let mut reply = reply(query.header);
    reply.set_flags(PacketFlag::TRUNCATION);
    let question = query.question.as_ref();
    reply.questions.extend(question.map(|q| q.asked.clone()));
    reply.build_bytes_vec().ok()
}
